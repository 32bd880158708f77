// Plain ES5 on purpose: this file has to run in the browsers that cannot run the others, with or without modules.
window.addEventListener("load", function () {
  // Modules have run before `load`; main.js leaves this mark as its first act.
  if (document.documentElement.getAttribute("data-started") === null) {
    document.getElementById("old").removeAttribute("hidden");
  }
});
