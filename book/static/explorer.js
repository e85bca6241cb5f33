/* The explorer page. No framework and no network: pictures and probabilities come from the JSON blocks that the book's
   build put into the page. Perturbations are unpacked by the browser and added here, in whole pixel levels, so that what
   is drawn is what the network was given. The choice lives in the address, after the #. */
"use strict";

(() => {
  const byId = (name) => document.getElementById(`explorer-${name}`);
  const root = document.getElementById("explorer");
  const block = (name) => JSON.parse((byId(`json-${name}`) || { textContent: "null" }).textContent);
  const data = block("data");
  const rows = block("rows");
  const attacks = block("attacks");
  if (!root || !data) return; // a book without results

  const WHOLE = 10000; // a probability of 1
  const BRANCHES = { main: "main", aux: "auxiliary" };
  const sizes = [0, ...data.eps]; // of 255
  const rowOf = Object.fromEntries(data.rows.map((row) => [row.key, row]));
  const names = data.images.labels.map((label) => data.classes[label]);
  const [height, width] = data.images.size;
  const entries = height * width * 3; // of one image
  const choice = { row: data.rows[0].key, branch: "main", attack: "pgd-10", eps: 8, image: 0 };
  const pixels = {}; // "clean", "noise", "row branch attack" -> typed array

  // ---- small helpers

  const percent = (probability, digits = 0) => ((100 * probability) / WHOLE).toFixed(digits);
  const best = (probabilities) => probabilities.indexOf(Math.max(...probabilities));
  const article = (word) => (/^[aeiou]/.test(word) ? "an " : "a ") + word;
  const fraction = (eps) => `${eps}/255`;

  /** An element with attributes, text and children; SVG elements with their prefix. */
  function make(name, attributes = {}, ...children) {
    const svg = name.startsWith("svg:");
    const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", name.slice(4)) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) if (value !== false) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }

  async function unpack(text, Kind) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Kind(await new Response(stream).arrayBuffer());
  }

  async function unpackAll() {
    const jobs = [["clean", data.images.pixels, Uint8Array], ["noise", data.noise, Int8Array]];
    for (const row of data.rows)
      for (const [branch, seen] of Object.entries(row.branches))
        for (const attack of Object.keys(attacks))
          if (seen[attack].perturbation) jobs.push([`${row.key} ${branch} ${attack}`, seen[attack].perturbation, Int8Array]);
    await Promise.all(jobs.map(async ([name, text, Kind]) => (pixels[name] = await unpack(text, Kind))));
  }

  // ---- the choice and the address

  function readAddress() {
    const asked = new URLSearchParams(location.hash.slice(1));
    if (Object.hasOwn(rowOf, asked.get("row"))) choice.row = asked.get("row");
    if (Object.hasOwn(BRANCHES, asked.get("branch"))) choice.branch = asked.get("branch");
    if (Object.hasOwn(attacks, asked.get("attack"))) choice.attack = asked.get("attack");
    if (asked.has("eps") && sizes.includes(Number(asked.get("eps")))) choice.eps = Number(asked.get("eps"));
    if (names.includes(asked.get("image"))) choice.image = names.indexOf(asked.get("image"));
  }

  function writeAddress() {
    const { row, attack, eps, image } = choice;
    const hash = new URLSearchParams({ row, branch: branch(), attack, eps, image: names[image] });
    try {
      history.replaceState(null, "", `#${hash}`);
    } catch {
      // a browser that keeps the addresses of local files to itself: the page works without
    }
  }

  /** The chosen branch, if the chosen row has it. The wish is kept for the next row that has. */
  const branch = () => (choice.branch in rowOf[choice.row].branches ? choice.branch : "main");

  // ---- what there is to draw for a choice

  function scene() {
    const { row, attack, eps, image } = choice;
    const seen = rowOf[row].branches[branch()];
    const clean = pixels.clean.subarray(image * entries, (image + 1) * entries);
    const all = attack === "noise" ? pixels.noise : pixels[`${row} ${branch()} ${attack}`];
    const at = data.eps.indexOf(eps);
    const start = (at * names.length + image) * entries;
    const added = at < 0 ? new Int8Array(entries) : all.subarray(start, start + entries);
    const before = seen.clean[image];
    const after = at < 0 ? before : seen[attack].probabilities[at][image];
    return { clean, added, before, after, label: data.images.labels[image] };
  }

  // ---- drawing

  /** RGB values, a function of the entry's number, onto a canvas of the image's own size; CSS enlarges it. */
  function paint(canvas, value) {
    canvas.width = width;
    canvas.height = height;
    const picture = new ImageData(width, height);
    for (let i = 0, k = 0; i < entries; k++) {
      picture.data[k++] = value(i++);
      picture.data[k++] = value(i++);
      picture.data[k++] = value(i++);
      picture.data[k] = 255;
    }
    canvas.getContext("2d").putImageData(picture, 0, 0);
  }

  function verdict(probabilities, label) {
    const k = best(probabilities);
    const right = k === label;
    const mark = make("span", { class: right ? "right" : "wrong" }, right ? "✓ " : "✗ ");
    return [mark, make("strong", {}, data.classes[k]), ` ${percent(probabilities[k])} %`];
  }

  function drawPictures({ clean, added, before, after, label }) {
    const factor = choice.eps ? Math.floor(127 / choice.eps) : 1;
    paint(byId("clean"), (i) => clean[i]);
    paint(byId("added"), (i) => 128 + factor * added[i]);
    paint(byId("shown"), (i) => clean[i] + added[i]);
    const captions = {
      clean: verdict(before, label),
      added: [choice.eps ? `amplified ${factor} times` : "nothing"],
      shown: verdict(after, label),
    };
    for (const [name, content] of Object.entries(captions))
      byId(name).parentElement.querySelector(".said").replaceChildren(...content);
    const name = names[choice.image];
    byId("clean").setAttribute("aria-label", `Test image of ${article(name)}, ${width} by ${height} pixels`);
    byId("added").setAttribute("aria-label", choice.eps ? `The perturbation, ${factor} times amplified, around grey` : "No perturbation: plain grey");
    byId("shown").setAttribute("aria-label", choice.eps ? `The same ${name} with the perturbation added` : "The image as it is");
  }

  function drawProbabilities({ before, after, label }) {
    const cell = (probabilities, k) => {
      const top = best(probabilities) === k;
      const mark = top ? (k === label ? "✓" : "✗") : "";
      const bar = make("span", { class: "bar", "aria-hidden": "true" }, make("span", { style: `width:${percent(probabilities[k], 2)}%` }));
      const number = make("span", { class: "number" }, make("span", { class: k === label ? "right" : "wrong" }, mark), ` ${percent(probabilities[k], 1)}`);
      return make("td", { class: top ? "top" : "" }, bar, number);
    };
    const lines = data.classes.map((name, k) => {
      const mark = k === label ? [make("span", { class: "truth" }, "true")] : [];
      return make("tr", {}, make("th", { scope: "row" }, name, ...mark), cell(before, k), cell(after, k));
    });
    root.querySelector(".probabilities tbody").replaceChildren(...lines);
  }

  const PLOT = { left: 36, right: 368, top: 10, bottom: 226 };
  const largest = Math.max(...Object.values(rows).flatMap((row) => Object.values(row.curves.main).flat().map((point) => point.eps)));
  const step = (eps) => (eps < 1 ? eps : 1 + Math.log2(eps)); // doublings are equally far apart, and 0 has a place
  const across = (eps) => PLOT.left + 8 + ((PLOT.right - PLOT.left - 16) * step(eps)) / step(largest);
  const down = (accuracy) => PLOT.bottom - ((PLOT.bottom - PLOT.top) * accuracy) / 100;
  const sweep = [...sizes, largest];
  const corners = (...pairs) => pairs.map(([eps, accuracy]) => `${across(eps)},${down(accuracy)}`).join(" ");

  /** Lines from point to point; dashed and without a band where sizes in between were not measured. */
  function line(points, look, band = false) {
    return points.slice(1).flatMap((to, i) => {
      const from = points[i];
      const gap = sweep.indexOf(to.eps) - sweep.indexOf(from.eps) > 1;
      const drawn = make("svg:polyline", { class: gap ? `${look} gap` : look, points: corners([from.eps, from.accuracy], [to.eps, to.accuracy]) });
      const edges = [[from.eps, from.low], [to.eps, to.low], [to.eps, to.high], [from.eps, from.high]];
      return band && !gap ? [make("svg:polygon", { class: "band", points: corners(...edges) }), drawn] : [drawn];
    });
  }

  const measured = (points) => points.find((point) => point.eps === choice.eps);

  function axes() {
    const parts = [];
    for (const tick of [0, 25, 50, 75, 100]) {
      parts.push(make("svg:line", { class: "grid", x1: PLOT.left, x2: PLOT.right, y1: down(tick), y2: down(tick) }));
      parts.push(make("svg:text", { x: PLOT.left - 6, y: down(tick) + 4, "text-anchor": "end" }, tick));
    }
    for (const tick of [...sizes, largest])
      parts.push(make("svg:text", { x: across(tick), y: PLOT.bottom + 17, "text-anchor": "middle" }, tick));
    parts.push(make("svg:text", { x: (PLOT.left + PLOT.right) / 2, y: PLOT.bottom + 36, "text-anchor": "middle" }, "ε (of 255)"));
    return parts;
  }

  function drawCurve() {
    const mine = rows[choice.row].curves[branch()][choice.attack];
    const others = Object.values(rows).map((row) => row.curves.main[choice.attack]);
    const parts = axes();
    for (const points of others.filter((points) => points !== mine)) parts.push(...line(points, "other"));
    const x = across(choice.eps);
    parts.push(make("svg:line", { class: "guide", x1: x, x2: x, y1: PLOT.top, y2: PLOT.bottom }));
    parts.push(...line(mine.filter((point) => !point.other), "mine", true));
    for (const point of mine) {
      const [px, chosen] = [across(point.eps), point.eps === choice.eps];
      if (chosen || point.other) parts.push(make("svg:line", { class: "whisker", x1: px, x2: px, y1: down(point.low), y2: down(point.high) }));
      const look = ["point", ...(chosen ? ["chosen"] : []), ...(point.other ? ["hollow"] : [])].join(" ");
      parts.push(make("svg:circle", { class: look, cx: px, cy: down(point.accuracy), r: chosen ? 6 : 3 }));
    }
    const here = measured(mine);
    if (here) {
      const left = x > (PLOT.left + PLOT.right) / 2 + 60;
      const attributes = { class: "value", x: x + (left ? -10 : 10), y: Math.max(down(here.high) - 6, PLOT.top + 12), "text-anchor": left ? "end" : "start" };
      parts.push(make("svg:text", attributes, `${here.accuracy.toFixed(1)} %`));
    }
    byId("curve").replaceChildren(...parts);
    byId("curve").setAttribute("aria-label", `Accuracy of ${network()} under ${attacks[choice.attack]}: ${spoken(mine)}. The table below has the numbers of every row.`);
    byId("reading").replaceChildren(...reading(here, mine));
  }

  const spoken = (points) => points.map(({ eps, accuracy }) => `${accuracy.toFixed(1)} % at ${eps ? fraction(eps) : "0"}`).join(", ");

  function reading(here, mine) {
    const n = mine[0].n;
    const link = make("a", { href: rows[choice.row].run }, "The run behind this row");
    const kind = here && here.other ? ` (under ${here.other}, a stronger attack)` : "";
    const found = here
      ? `${here.accuracy.toFixed(1)} % of ${n} test images${kind}; 95 % interval ${here.low.toFixed(1)} to ${here.high.toFixed(1)}. `
      : `The record has no accuracy at this size. `;
    const grey = branch() === "main" ? "the other rows" : "all rows, main batch norm";
    return [found, `Grey: ${grey}. `, link, "."];
  }

  // ---- in words

  function network() {
    const two = Object.keys(rowOf[choice.row].branches).length > 1;
    return `the ${rows[choice.row].label} network${two ? ` (${BRANCHES[branch()]} batch norm)` : ""}`;
  }

  function sentence({ before, after, label }) {
    const sees = (probabilities, again = "") => {
      const k = best(probabilities);
      return `${again}sees ${article(data.classes[k])}, ${percent(probabilities[k])} % sure: ${k === label ? "right" : "wrong"}.`;
    };
    const first = `Shown this ${data.classes[label]}, ${network()} ${sees(before)}`;
    if (!choice.eps) return `${first} Move the slider to add something to it.`;
    const how = `${choice.attack === "noise" ? "noise" : attacks[choice.attack]} of at most ${fraction(choice.eps)} a pixel`;
    return `${first} With ${how} added, it ${sees(after, best(before) === best(after) ? "still " : "")}`;
  }

  // ---- controls

  function radio(group, value, text, picture) {
    const input = make("input", { type: "radio", name: group, value });
    const label = make("label", { title: picture ? text : false }, input, ...(picture ? [picture, make("span", { class: "name" }, text)] : [make("span", {}, text)]));
    input.addEventListener("change", () => {
      choice[group] = group === "image" ? Number(value) : value;
      draw();
    });
    return label;
  }

  function build() {
    byId("row").append(...data.rows.map((row) => make("option", { value: row.key }, rows[row.key].label)));
    byId("row").addEventListener("change", (event) => {
      choice.row = event.target.value;
      draw();
    });
    byId("branches").lastElementChild.append(...Object.entries(BRANCHES).map(([key, name]) => radio("branch", key, name)));
    byId("attacks").lastElementChild.append(...Object.entries(attacks).map(([key, name]) => radio("attack", key, name)));
    byId("eps").max = sizes.length - 1;
    byId("eps").addEventListener("input", (event) => {
      choice.eps = sizes[event.target.value];
      draw();
    });
    root.querySelector(".ticks").append(...sizes.map((size) => make("span", {}, size)));
    const pictures = names.map((name, i) => {
      const canvas = make("canvas", { "aria-hidden": "true" });
      paint(canvas, (k) => pixels.clean[i * entries + k]);
      return radio("image", i, name, canvas);
    });
    byId("images").lastElementChild.append(...pictures);
    root.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
  }

  function showChoice() {
    const has = rowOf[choice.row].branches;
    byId("row").value = choice.row;
    byId("eps").value = sizes.indexOf(choice.eps);
    byId("eps").setAttribute("aria-valuetext", choice.eps ? `${choice.eps} of 255` : "0, nothing is added");
    byId("size").textContent = choice.eps ? fraction(choice.eps) : "0";
    for (const [group, value] of Object.entries({ branch: branch(), attack: choice.attack, image: choice.image }))
      for (const input of root.querySelectorAll(`input[name="${group}"]`)) {
        input.checked = input.value === String(value);
        if (group === "branch") input.disabled = !(input.value in has);
      }
  }

  function draw() {
    showChoice();
    const now = scene();
    drawPictures(now);
    drawProbabilities(now);
    drawCurve();
    byId("sentence").textContent = sentence(now);
    writeAddress();
  }

  async function start() {
    if (!("DecompressionStream" in window)) throw new Error("this browser cannot unpack its data; one of 2023 or later can");
    await unpackAll();
    choice.image = Math.max(0, names.findIndex((_, i) => best(data.rows[0].branches.main.clean[i]) === data.images.labels[i]));
    readAddress();
    build();
    root.hidden = false;
    const show = () => root.querySelector(".stage").scrollIntoView({ block: "center" }); // what a link has changed
    const asked = location.hash !== ""; // drawing writes the address
    draw();
    if (asked) show();
    window.addEventListener("hashchange", () => {
      readAddress();
      draw();
      show();
    });
  }

  start().catch((error) => {
    byId("trouble").textContent = `The explorer cannot start: ${error.message}. The table below has the accuracies that it draws.`;
    byId("trouble").hidden = false;
  });
})();
