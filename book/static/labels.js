// What the theme and the bibliography leave out for readers who listen to a page.
document.addEventListener("DOMContentLoaded", () => {
  for (const button of document.querySelectorAll(".bd-sidebar summary, .bd-sidebar-primary summary")) {
    button.setAttribute("aria-label", "Show or hide the pages below");
  }
  for (const list of document.querySelectorAll('.citation-list[role="list"]')) {
    list.removeAttribute("role"); // its entries are no list items
  }
});
