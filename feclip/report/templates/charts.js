// The plots of a report: distributions as shares of bars, rates with their intervals.
"use strict";

feclip.charts = (() => {
  const BARS = 110; // over the bulk of the scores
  const BULK = 0.0005; // left out on each side when the view is chosen

  const percent = (value) => 100 * value;

  function bulk(counts) {
    const total = counts.reduce((sum, count) => sum + count, 0);
    let below = 0;
    let low = 0;
    let high = counts.length - 1;
    for (let index = 0; index < counts.length; index++) {
      below += counts[index];
      if (below <= BULK * total) low = index;
      if (below < (1 - BULK) * total) high = index + 1;
    }
    return [low, Math.min(high, counts.length - 1)];
  }

  // Joins bins to bars whose edges meet at bin `anchor`'s end; returns centres, shares, and the width, in bins.
  function bars(counts, { width, anchor }) {
    const total = counts.reduce((sum, count) => sum + count, 0) || 1;
    const shift = (((anchor + 1) % width) + width) % width;
    const found = new Map();
    counts.forEach((count, index) => {
      const bar = Math.floor((index - shift) / width);
      found.set(bar, (found.get(bar) ?? 0) + count);
    });
    const numbers = [...found.keys()].sort((a, b) => a - b);
    return {
      start: numbers.map((bar) => bar * width + shift),
      share: numbers.map((bar) => percent(found.get(bar) / total)),
    };
  }

  function distribution(id, { counts, reference, place, lines, split, anchor, log, title }) {
    const [low, high] = bulk(counts.map((count, index) => count + (reference ? reference[index] : 0)));
    const width = Math.max(1, Math.round((high - low) / BARS));
    const own = bars(counts, { width, anchor });
    const x = own.start.map((start) => place(start + width / 2));
    const colors = own.start.map((start) => (split !== null && start > split ? "--alarm" : "--calm"));
    const step = place(width) - place(0);
    const traces = [
      {
        type: "bar", x, y: own.share, width: step, name: "archive", marker: { color: colors },
        hovertemplate: "%{x:.4g}: %{y:.3g} %<extra>archive</extra>", showlegend: Boolean(reference),
      },
    ];
    if (reference) {
      const normal = bars(reference, { width, anchor });
      traces.push({
        type: "scatter", mode: "lines", name: "normals of the calibration", line: { shape: "hvh", color: "--text", width: 2 },
        x: normal.start.map((start) => place(start + width / 2)), y: normal.share,
        hovertemplate: "%{x:.4g}: %{y:.3g} %<extra>normals</extra>",
      });
    }
    const ends = [place(low - width), place(high + width)];
    const inside = lines.map((line) => line.at);
    const reach = [Math.min(ends[0], ...inside), Math.max(ends[1], ...inside)];
    const room = 0.03 * (reach[1] - reach[0]);
    feclip.plots.draw(id, traces, {
      bargap: 0,
      xaxis: { title: { text: title }, range: [reach[0] - room, reach[1] + room] },
      yaxis: { title: { text: "% of images" }, type: log ? "log" : "linear" },
      shapes: lines.map(({ at, dash, color }) => ({
        type: "line", xref: "x", yref: "paper", x0: at, x1: at, y0: 0, y1: 1, line: { color, dash, width: 2 },
      })),
      annotations: lines.filter((line) => line.text).map(({ at, text }, index) => ({
        x: at, xref: "x", y: 1 - 0.09 * (index % 3), yref: "paper", yanchor: "top", xanchor: "left", text, showarrow: false,
        font: { size: 12, color: "--text" }, bgcolor: "--surface", xshift: 3,
      })),
    });
  }

  function intervals(tallies) {
    return tallies.map(({ anomalous, scored }) => {
      const [low, high] = feclip.counts.wilson(anomalous, scored);
      return { rate: scored ? percent(anomalous / scored) : null, low: percent(low), high: percent(high), anomalous, scored };
    });
  }

  const told = ({ anomalous, scored, low, high }) =>
    `${anomalous.toLocaleString("en")} of ${scored.toLocaleString("en")}<br>95 %: ${low.toPrecision(3)} to ${high.toPrecision(3)} %`;

  function overTime(id, names, tallies) {
    const chosen = names.map((name, index) => index).filter((index) => tallies[index].scored);
    const x = chosen.map((index) => feclip.plots.plain(names[index]));
    const found = intervals(chosen.map((index) => tallies[index]));
    const edge = { type: "scatter", mode: "lines", x, line: { width: 0 }, hoverinfo: "skip", showlegend: false };
    feclip.plots.draw(
      id,
      [
        { ...edge, y: found.map((item) => item.high) },
        { ...edge, y: found.map((item) => item.low), fill: "tonexty", fillcolor: "--band" },
        {
          type: "scatter", mode: "lines+markers", x, y: found.map((item) => item.rate), text: found.map(told), showlegend: false,
          line: { color: "--series-1" }, hovertemplate: "%{x}: %{y:.3g} %<br>%{text}<extra></extra>",
        },
      ],
      { xaxis: { type: "category" }, yaxis: { title: { text: "% above the threshold" }, rangemode: "tozero" } },
    );
  }

  function byGroup(id, names, tallies) {
    const chosen = names.map((name, index) => index).filter((index) => tallies[index].scored).reverse();
    const found = intervals(chosen.map((index) => tallies[index]));
    document.getElementById(id).style.height = `${Math.max(260, 80 + 24 * chosen.length)}px`;
    feclip.plots.draw(
      id,
      [
        {
          type: "scatter", mode: "markers", x: found.map((item) => item.rate), y: chosen.map((index) => feclip.plots.plain(names[index])),
          marker: { color: "--series-1", size: 9 }, text: found.map(told),
          error_x: {
            type: "data", symmetric: false, color: "--series-1", thickness: 1.5,
            array: found.map((item) => item.high - item.rate), arrayminus: found.map((item) => item.rate - item.low),
          },
          hovertemplate: "%{y}: %{x:.3g} %<br>%{text}<extra></extra>",
        },
      ],
      { xaxis: { title: { text: "% above the threshold" }, rangemode: "tozero" }, yaxis: { type: "category" } },
    );
  }

  function drift(id, rows) {
    const known = rows.filter((row) => row.verdict !== "too_few");
    const x = known.map((row) => feclip.plots.plain(row.name));
    const line = (name, color, symbol) => ({
      type: "scatter", mode: "lines+markers", x, y: known.map((row) => row[name]), name: name.toUpperCase(),
      line: { color }, marker: { symbol, size: 8 },
    });
    const bound = (at) => ({
      type: "line", xref: "paper", yref: "y", x0: 0, x1: 1, y0: at, y1: at, line: { color: "--reference", dash: "dot", width: 1 },
    });
    feclip.plots.draw(id, [line("psi", "--series-1", "circle"), line("ks", "--series-2", "diamond")], {
      xaxis: { type: "category" }, yaxis: { rangemode: "tozero", title: { text: "distance from the normals" } },
      shapes: [bound(0.1), bound(0.25)],
    });
  }

  return { byGroup, distribution, drift, overTime };
})();
