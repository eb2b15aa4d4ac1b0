/* A link to a statement shows it while it is hovered or focused; Escape closes. Touch follows the link at once. */
"use strict";

// A page that lies in a folder may fetch no other: search then lists what it finds without excerpts.
if (typeof DOCUMENTATION_OPTIONS !== "undefined" && location.protocol === "file:") {
  DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
}

document.addEventListener("DOMContentLoaded", () => {
  const known = globalThis.cbdmStatements ?? {};
  const box = document.createElement("div");
  box.id = "statement-preview";
  box.setAttribute("role", "tooltip");
  box.hidden = true;
  document.body.append(box);
  let owner = null;
  let leaving = 0;

  function name(link) {
    return decodeURIComponent((link.getAttribute("href") ?? "").split("#")[1] ?? "");
  }
  function show(link) {
    clearTimeout(leaving);
    if (owner === link) return;
    hide();
    owner = link;
    box.innerHTML = known[name(link)];
    for (const marked of box.querySelectorAll("[id]")) marked.removeAttribute("id");
    if (globalThis.renderMathInElement && globalThis.katex_options) renderMathInElement(box, katex_options);
    box.hidden = false;
    link.setAttribute("aria-describedby", box.id);
    const at = link.getBoundingClientRect();
    const wide = box.offsetWidth;
    const below = at.bottom + box.offsetHeight + 12 < innerHeight;
    box.style.left = `${Math.max(8, Math.min(at.left, document.documentElement.clientWidth - wide - 8))}px`;
    box.style.top = `${Math.max(8, below ? at.bottom + 6 : at.top - box.offsetHeight - 6)}px`;
  }
  function hide() {
    owner?.removeAttribute("aria-describedby");
    owner = null;
    box.hidden = true;
  }
  function later() {
    clearTimeout(leaving);
    leaving = setTimeout(hide, 150);
  }

  for (const link of document.querySelectorAll('a[href*="#statement-"]')) {
    if (!(name(link) in known) || link.closest(".toc-tree")) continue;
    link.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse") show(link); });
    link.addEventListener("pointerleave", later);
    link.addEventListener("focus", () => { if (link.matches(":focus-visible")) show(link); });
    link.addEventListener("blur", later);
  }
  box.addEventListener("pointerenter", () => clearTimeout(leaving));
  box.addEventListener("pointerleave", later);
  addEventListener("keydown", (event) => { if (event.key === "Escape") hide(); });
  addEventListener("scroll", () => { if (owner) later(); }, { passive: true });
});
