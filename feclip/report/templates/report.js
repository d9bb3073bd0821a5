// The state of the page: slider, filters, gallery and viewer; kept in the address, so that a link leads to what is seen.
"use strict";

(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const { chart, decision, cards, galleries } = data;
  const { counts, charts, gallery } = feclip;
  const cells = chart.cells.map(counts.opened);
  const byId = (id) => document.getElementById(id);
  const state = { stop: chart.start, group: -1, date: -1, view: "highest", search: "", row: null, log: false };

  const offset = (stop) => (stop - chart.zero) * chart.step;
  const isAnomalous = (card) => card.margin > offset(state.stop);
  const context = { calibrated: decision.calibrated, open, decide: (card) => ({ calibrated: decision.calibrated, isAnomalous: isAnomalous(card) }) };
  const number = (value) => Number(value.toPrecision(5)).toString();
  const signed = (value) => (value < 0 ? "" : "+") + number(value);

  const within = (item, { group = state.group, date = state.date } = {}) =>
    (group < 0 || item.group === group) && (date < 0 || item.date === date);

  function shown() {
    const text = state.search.toLowerCase();
    return galleries[state.view].map((index) => cards[index]).filter((card) => within(card) && card.uri.toLowerCase().includes(text));
  }

  function thresholdText() {
    const moved = offset(state.stop);
    if (!decision.calibrated) return `image logit above ${number(moved)}`;
    const words = moved === 0 ? "as calibrated" : `${signed(moved)} from the calibrated one`;
    return decision.threshold === null ? words : `${decision.statistic} above ${number(decision.threshold + moved)}, ${words}`;
  }

  function showCounts() {
    const chosen = cells.filter((cell) => within(cell));
    const total = counts.tally(chosen, state.stop);
    const [low, high] = counts.wilson(total.anomalous, total.scored);
    const rate = total.scored ? (100 * total.anomalous) / total.scored : 0;
    const words = decision.calibrated ? "anomalous" : "above";
    byId("stop-value").textContent = thresholdText();
    byId("stop").setAttribute("aria-valuetext", thresholdText());
    byId("count").replaceChildren();
    const strong = document.createElement("strong");
    strong.id = "anomalous";
    strong.textContent = total.anomalous.toLocaleString("en");
    byId("count").append(
      strong,
      ` of ${total.scored.toLocaleString("en")} scored images ${words}: ${rate.toPrecision(3)} % ` +
        `(95 %: ${(100 * low).toPrecision(3)} to ${(100 * high).toPrecision(3)}); ${total.errors.toLocaleString("en")} without a score.`,
    );
  }

  function expanded([start, numbers]) {
    const found = new Float64Array(chart.num);
    numbers.forEach((value, index) => (found[start + index] = value));
    return found;
  }

  function referenceCounts() {
    if (!chart.reference) return null;
    const own = chart.reference.groups[state.group];
    return expanded(state.group >= 0 && own ? own : chart.reference.all);
  }

  function showCharts() {
    const base = decision.threshold ?? 0;
    const isScore = decision.threshold !== null;
    const place = (edge) => base + (edge - 1 - chart.zero) * chart.step; // where bin `edge` begins
    const lines = [{ at: base + offset(state.stop), dash: "solid", color: "--text" }];
    if (decision.calibrated && state.stop !== chart.zero) lines.push({ at: base, dash: "dot", color: "--reference", text: "calibrated" });
    charts.distribution("distribution-plot", {
      counts: counts.summed(cells.filter((cell) => within(cell)), chart.num), reference: referenceCounts(), place, lines,
      split: state.stop, anchor: state.stop, log: state.log,
      title: isScore ? `${decision.statistic}, logits` : "distance beyond the threshold, logits",
    });
    if (byId("time-plot")) {
      const chosen = cells.filter((cell) => within(cell, { date: -1 }));
      charts.overTime("time-plot", chart.dates, counts.tallies(chosen, state.stop, "date", chart.dates.length));
    }
    if (byId("group-plot")) {
      const chosen = cells.filter((cell) => within(cell, { group: -1 }));
      charts.byGroup("group-plot", chart.groups, counts.tallies(chosen, state.stop, "group", chart.groups.length));
    }
  }

  function showStatistic() {
    const chosen = data.statistics[byId("statistic").value];
    const length = Math.max(chosen.counts[0] + chosen.counts[1].length, chosen.reference ? chosen.reference[0] + chosen.reference[1].length : 0);
    const full = ([start, numbers]) => {
      const found = new Float64Array(length);
      numbers.forEach((value, index) => (found[start + index] = value));
      return found;
    };
    charts.distribution("statistic-plot", {
      counts: full(chosen.counts), reference: chosen.reference ? full(chosen.reference) : null,
      place: (edge) => chosen.first + (edge - 1) * chosen.step, split: null, anchor: 0, log: state.log, title: `${chosen.name}, logits`,
      lines: chosen.thresholds.filter((item) => item.decides || item.group === null).slice(0, 12).map((item) => ({
        at: item.value, dash: item.decides ? "solid" : "dot", color: item.decides ? "--text" : "--reference",
        text: `${item.group === null ? "" : `${feclip.plots.plain(item.group)}: `}${item.percentile}${item.decides ? " decides" : ""}`,
      })),
    });
  }

  function showGallery() {
    const chosen = shown();
    document.querySelectorAll("[data-view]").forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.view === state.view)));
    byId("shown").textContent = `${chosen.length} of ${galleries[state.view].length} images shown`;
    gallery.show(chosen, context);
  }

  function open(row) {
    const card = cards.find((item) => item.id === row);
    if (!card) return;
    state.row = row;
    gallery.fillViewer(card, context);
    if (!byId("viewer").open) byId("viewer").showModal();
    writeAddress();
  }

  function closed() {
    const last = state.row;
    state.row = null;
    writeAddress();
    document.querySelector(`#cards [data-row="${last}"]`)?.focus();
  }

  function step(by) {
    const chosen = shown();
    const at = chosen.findIndex((card) => card.id === state.row);
    if (chosen.length) open(chosen[(at + by + chosen.length) % chosen.length].id);
  }

  function writeAddress() {
    const kept = new URLSearchParams();
    if (state.stop !== chart.start) kept.set("stop", state.stop - chart.zero);
    if (state.group >= 0) kept.set("group", chart.groups[state.group]);
    if (state.date >= 0) kept.set("date", chart.dates[state.date]);
    if (state.view !== "highest") kept.set("view", state.view);
    if (state.search) kept.set("search", state.search);
    if (state.log) kept.set("log", "1");
    if (state.row !== null) kept.set("row", state.row);
    const text = kept.toString();
    history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
  }

  function readAddress() {
    const asked = new URLSearchParams(location.hash.slice(1));
    const stop = Number.parseInt(asked.get("stop") ?? "", 10);
    state.stop = Number.isNaN(stop) ? chart.start : Math.min(Math.max(stop + chart.zero, 0), chart.last);
    state.group = chart.groups.indexOf(asked.get("group"));
    state.date = chart.dates.indexOf(asked.get("date"));
    state.view = Object.hasOwn(galleries, asked.get("view") ?? "") ? asked.get("view") : "highest";
    state.search = asked.get("search") ?? "";
    state.log = asked.has("log");
    const row = Number.parseInt(asked.get("row") ?? "", 10);
    state.row = Number.isNaN(row) ? null : row;
  }

  function fillControls() {
    Object.assign(byId("stop"), { max: chart.last, value: state.stop });
    byId("search").value = state.search;
    byId("log").checked = state.log;
    if (byId("group")) byId("group").value = state.group;
    if (byId("date")) byId("date").value = state.date;
  }

  function showAll() {
    fillControls();
    showCounts();
    showCharts();
    showStatistic();
    showGallery();
  }

  let waiting = false;
  function moveSlider() {
    state.stop = Number(byId("stop").value);
    showCounts();
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      showCharts();
      gallery.relabel(shown(), context);
      writeAddress();
    });
  }

  function options(select, names, all) {
    if (!select) return;
    const made = [all, ...names].map((name, index) => Object.assign(document.createElement("option"), { value: index - 1, textContent: name }));
    select.replaceChildren(...made);
  }

  function listen() {
    byId("stop").addEventListener("input", moveSlider);
    byId("reset").addEventListener("click", () => {
      state.stop = chart.start;
      showAll();
      writeAddress();
    });
    for (const name of ["group", "date"]) {
      byId(name)?.addEventListener("change", (event) => {
        state[name] = Number(event.target.value);
        showCounts();
        showCharts();
        showGallery();
        writeAddress();
      });
    }
    byId("search").addEventListener("input", (event) => {
      state.search = event.target.value;
      showGallery();
      writeAddress();
    });
    byId("log").addEventListener("change", (event) => {
      state.log = event.target.checked;
      showCharts();
      showStatistic();
      writeAddress();
    });
    document.querySelectorAll("[data-view]").forEach((button) =>
      button.addEventListener("click", () => {
        state.view = button.dataset.view;
        showGallery();
        writeAddress();
      }),
    );
    byId("export").addEventListener("click", () => gallery.download(gallery.csv(shown(), context), `${state.view}.csv`));
    byId("statistic").addEventListener("change", showStatistic);
    byId("opacity").addEventListener("input", gallery.fade);
    byId("previous").addEventListener("click", () => step(-1));
    byId("next").addEventListener("click", () => step(1));
    byId("close").addEventListener("click", () => byId("viewer").close());
    byId("viewer").addEventListener("close", closed);
    byId("viewer").addEventListener("keydown", (event) => {
      if (event.target.type === "range") return;
      if (event.key === "ArrowLeft") step(-1);
      if (event.key === "ArrowRight") step(1);
    });
    addEventListener("hashchange", () => {
      if (!location.hash.includes("=")) return; // a link within the page
      readAddress();
      showAll();
      if (state.row !== null) open(state.row);
    });
  }

  options(byId("group"), chart.groups, "all");
  options(byId("date"), chart.dates, "all");
  byId("statistic").replaceChildren(
    ...data.statistics.map((item, index) => Object.assign(document.createElement("option"), { value: index, textContent: item.name })),
  );
  gallery.legend(data.heat);
  readAddress();
  listen();
  showAll();
  if (data.drift.length > 1) {
    byId("drift-plot").hidden = false;
    charts.drift("drift-plot", data.drift);
  }
  if (state.row !== null) open(state.row);
})();
