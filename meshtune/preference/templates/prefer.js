// Keys choose, and a second click is not sent. Everything works without this.
"use strict";
(() => {
  const form = document.querySelector("form.vote");
  const keys = document.getElementById("keys");
  const names = { ArrowLeft: "a", ArrowRight: "b", t: "tie", b: "bad" };
  let sent = false;
  keys.parentElement.hidden = false;
  try { keys.checked = localStorage.getItem("keys") !== "off"; } catch { /* no storage: on */ }
  keys.addEventListener("change", () => {
    try { localStorage.setItem("keys", keys.checked ? "on" : "off"); } catch { /* not kept */ }
  });
  form.addEventListener("submit", (event) => {
    if (sent) event.preventDefault();
    sent = true;
  });
  window.addEventListener("pageshow", () => { sent = false; });
  document.addEventListener("keydown", (event) => {
    if (!keys.checked || event.repeat || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
    if (event.target.closest("textarea, input, select, summary, pre, .table")) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (key === "u") {
      const undo = document.getElementById("undo");
      if (undo) undo.click();
    } else if (Object.hasOwn(names, key)) {
      event.preventDefault();
      form.querySelector(`button[value="${names[key]}"]`).click();
    }
  });
})();
