"use strict";
// What the mark nearest to the pointer says, in a box beside it.
const box = document.createElement("div");
box.id = "says";
box.hidden = true;
document.body.append(box);
const REACH = 22; // pixels from the pointer to the nearest mark

function places(svg) {
  if (svg.places) return svg.places;
  svg.places = [];
  for (const mark of svg.querySelectorAll("[data-says]")) {
    const given = (name) => Number(mark.getAttribute(name));
    const add = (x, y) => svg.places.push({ x, y, mark });
    if (mark.tagName === "circle") add(given("cx"), given("cy"));
    else if (mark.tagName === "polyline") for (const pair of mark.getAttribute("points").split(" ")) add(...pair.split(",").map(Number));
    else if (mark.tagName === "path") add(...mark.getAttribute("d").match(/-?[\d.]+/g).slice(0, 2).map(Number));
  }
  return svg.places;
}

function nearest(svg, event) {
  const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  const scale = svg.getScreenCTM().a;
  let found = null;
  for (const lines of [false, true]) { // a point before a line that goes through it
    let least = (REACH / scale) ** 2;
    for (const place of places(svg)) {
      const away = (place.x - at.x) ** 2 + (place.y - at.y) ** 2;
      const fits = (place.mark.tagName === "polyline") === lines && !place.mark.classList.contains("out");
      if (fits && away <= least) [least, found] = [away, place.mark];
    }
    if (found) return found;
  }
  return null;
}

document.addEventListener("pointermove", (event) => {
  const svg = event.target.closest && event.target.closest(".plot svg[role=img]");
  const mark = svg && (event.target.closest("rect[data-says]") || nearest(svg, event));
  box.hidden = !mark;
  if (!mark) return;
  box.textContent = mark.dataset.says;
  const { offsetWidth: wide, offsetHeight: tall } = box;
  const left = event.clientX + 14 + wide > innerWidth ? event.clientX - 14 - wide : event.clientX + 14;
  box.style.left = `${Math.max(4, left)}px`;
  box.style.top = `${Math.max(4, Math.min(event.clientY + 14, innerHeight - tall - 4))}px`;
});

// Parallel coordinates: a drag along an axis picks a range, a click lets go.
for (const svg of document.querySelectorAll("#figure-parallel svg[role=img]")) {
  const lines = [...svg.querySelectorAll(".line")];
  const lying = Boolean(svg.querySelector(".axis.lying")); // from left to right, on a narrow screen
  const spots = lines.map((line) => line.getAttribute("points").split(" ").map((pair) => Number(pair.split(",")[lying ? 0 : 1])));
  const ranges = new Map();
  const show = () => {
    lines.forEach((line, index) => {
      const inside = [...ranges].every(([axis, [low, high]]) => spots[index][axis] >= low && spots[index][axis] <= high);
      line.classList.toggle("out", !inside);
    });
  };
  [...svg.querySelectorAll(".axis")].forEach((group, axis) => {
    const area = group.querySelector("rect");
    const brush = group.appendChild(document.createElementNS(svg.namespaceURI, "rect"));
    brush.setAttribute("class", "brush");
    const along = (event) => {
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      return lying ? at.x : at.y;
    };
    let start = null;
    area.addEventListener("pointerdown", (event) => {
      start = along(event);
      area.setPointerCapture(event.pointerId);
    });
    area.addEventListener("pointermove", (event) => {
      if (start === null) return;
      const [low, high] = [start, along(event)].sort((a, b) => a - b);
      ranges.set(axis, [low, high]);
      const beside = group.dataset.at - 8;
      const box = lying ? { x: low, width: high - low, y: beside, height: 16 } : { x: beside, width: 16, y: low, height: high - low };
      for (const [name, value] of Object.entries(box)) brush.setAttribute(name, value);
      show();
    });
    area.addEventListener("pointerup", (event) => {
      if (Math.abs(along(event) - start) < 3) {
        ranges.delete(axis);
        brush.setAttribute(lying ? "width" : "height", 0);
        show();
      }
      start = null;
    });
  });
}

// What scrolls can be scrolled by keys.
const reachable = () => {
  for (const place of document.querySelectorAll(".scroll, .text")) {
    const scrolls = place.scrollWidth > place.clientWidth + 1 || place.scrollHeight > place.clientHeight + 1;
    if (scrolls) place.tabIndex = 0;
    else place.removeAttribute("tabindex");
  }
};
reachable();
addEventListener("resize", reachable);

// On a narrow screen the head of a column stands before each of its cells.
for (const table of document.querySelectorAll("table:not(.tall table)")) {
  const heads = [...table.tHead.rows[0].cells].map((head) => head.textContent);
  for (const row of table.tBodies[0].rows) [...row.cells].forEach((cell, column) => (cell.dataset.head = heads[column]));
}

// Tables are sorted by the values behind their cells; what has no value stays last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => row.cells[column].dataset.value;
      const order = (a, b) => {
        const [x, y] = [value(a), value(b)];
        if (x === undefined || y === undefined) return (x === undefined) - (y === undefined);
        const [m, n] = [Number(x), Number(y)];
        const by = Number.isNaN(m) || Number.isNaN(n) ? x.localeCompare(y) : m - n;
        return down ? -by : by;
      };
      table.tBodies[0].append(...[...table.tBodies[0].rows].sort(order));
    });
  });
}
