"use strict";
// Figures take their colours from the page's theme, by the role that each trace names.
const narrow = matchMedia("(max-width: 640px)");
const theme = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function themed(figure) {
  const { data, layout } = structuredClone(figure);
  for (const trace of data) {
    const role = trace.meta && trace.meta.role;
    if (role === "scale") {
      const shades = theme("--scale").split(",").map((shade) => shade.trim());
      trace.line.colorscale = trace.line.colorscale.map(([at], index) => [at, shades[index]]);
    } else if (role) {
      const colour = theme(`--${role}`);
      if (trace.line) trace.line.color = colour;
      if (trace.marker) trace.marker.color = colour;
      if (trace.fillcolor) trace.fillcolor = colour;
    }
  }
  layout.font.color = theme("--ink");
  layout.hoverlabel = { ...layout.hoverlabel, bgcolor: theme("--raised"), bordercolor: theme("--line"), font: { color: theme("--ink") } };
  for (const axis of [layout.xaxis, layout.yaxis]) {
    if (axis) Object.assign(axis, { gridcolor: theme("--grid"), linecolor: theme("--line") });
  }
  if (narrow.matches && layout.xaxis && layout.legend) { // the legend below, so that its lines take no place from above
    layout.legend = { ...layout.legend, y: -0.3, yanchor: "top" };
    layout.margin = { ...layout.margin, l: 40, r: 8, t: 12 };
    delete layout.xaxis.dtick;
  }
  return { data, layout };
}

const figures = [...document.querySelectorAll("script.figure")].map((source) => ({
  place: document.getElementById(source.dataset.for),
  figure: JSON.parse(source.textContent),
}));

function draw() {
  for (const { place, figure } of figures) {
    const { data, layout } = themed(figure);
    Plotly.react(place, data, layout, { responsive: true, displayModeBar: false, scrollZoom: false });
  }
}

draw();
narrow.addEventListener("change", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

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
