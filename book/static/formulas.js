// Typesets the formulas of a page with KaTeX, which writes MathML beside them for readers who listen.
document.addEventListener("DOMContentLoaded", () => {
  for (const place of document.querySelectorAll(".math.notranslate")) {
    const source = place.lastChild; // an equation's number stands before it
    const typeset = document.createElement("span");
    const displayMode = place.matches("div");
    katex.render(source.data.trim().replace(/^\\[([]|\\[)\]]$/g, ""), typeset, { displayMode, throwOnError: false });
    source.replaceWith(...typeset.childNodes);
  }
  for (const formula of document.querySelectorAll(".katex-display")) {
    if (formula.scrollWidth > formula.clientWidth) formula.tabIndex = 0; // it scrolls: by keyboard as well
  }
});
