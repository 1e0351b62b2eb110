// Draws the timeline of a run from the JSON in the page, and makes it answer to the pointer and to keys.
// Every text of the run goes into the page as text, never as markup. Moments are milliseconds, latencies microseconds.
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const plot = byId("plot");
  const tip = byId("tip");
  document.documentElement.classList.add("scripted");

  const SPAN_MIN = Math.min(40, data.length);
  const RIGHT = 14;
  const view = { from: 0, to: data.length };
  let series = data.series[0];
  let left = 150;
  let width = 0;
  let lanes = [];
  let bottom = 0;

  const rate = (series, i) => (series.acked[i] + series.refused[i] + series.failed[i] + series.unknown[i]) * (1000 / data.period);
  const slots = series.acked.length;
  const any = (column) => data.series[0][column].some((count) => count > 0);
  const LAYERS = ["acked", "refused", "failed", "unknown"].filter((layer) => layer !== "refused" || any(layer));

  // Text

  const pad = (number, digits = 2) => String(number).padStart(digits, "0");

  function clock(ms, step = 10) {
    const digits = step >= 1000 ? 0 : step >= 100 ? 1 : step >= 10 ? 2 : 3;
    const whole = Math.floor(ms / 1000 + 1e-6);
    const rest = Math.min(999, Math.max(0, Math.round(ms - whole * 1000)));
    const hours = Math.floor(whole / 3600);
    const minutes = Math.floor(whole / 60) % 60;
    const head = hours > 0 ? `${hours}:${pad(minutes)}` : `${minutes}`;
    const tail = digits > 0 ? `.${pad(rest, 3).slice(0, digits)}` : "";
    return `${head}:${pad(whole % 60)}${tail}`;
  }

  function micros(us) {
    if (us < 1000) return `${us} µs`;
    const [value, unit] = us < 1e6 ? [us / 1e3, "ms"] : [us / 1e6, "s"];
    return `${value < 10 ? value.toFixed(2) : value < 100 ? value.toFixed(1) : Math.round(value)} ${unit}`;
  }

  const duration = (ms) => micros(ms * 1000);
  const perSecond = (value) => (value >= 100 || value === 0 ? Math.round(value).toLocaleString("en") : value.toFixed(1));

  // SVG

  function make(parent, tag, attributes, text) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== undefined) element.textContent = text;
    parent.append(element);
    return element;
  }

  const px = (value) => Math.round(value * 10) / 10;
  const x = (ms) => left + ((ms - view.from) / (view.to - view.from)) * width;
  const moment = (position) => view.from + ((position - left) / width) * (view.to - view.from);
  const inside = (position) => Math.min(left + width, Math.max(left, position));

  function box(parent, kind, from, to, y, height) {
    return make(parent, "rect", { class: kind, x: px(from), y, width: px(Math.max(0, to - from)), height });
  }

  const seen = (list) => list.filter((entry) => entry[1] >= view.from && entry[0] <= view.to);

  // Where stretches lie closer than they can be told apart, a darker place stands for more of them.
  const crowded = (list) => list.length * 5 > width;

  function stretches(parent, list, y, height, kind, least = 2) {
    const here = seen(list);
    if (crowded(here)) return crowd(parent, here, y, height, kind);
    for (const entry of here) {
      const from = inside(x(entry[0]));
      box(parent, kind, from, Math.max(inside(x(entry[1])), from + least), y, height);
    }
  }

  function crowd(parent, list, y, height, kind) {
    const step = 2;
    const share = new Float64Array(Math.ceil(width / step) + 1);
    for (const entry of list) {
      const [from, to] = [inside(x(entry[0])) - left, inside(x(entry[1])) - left];
      for (let bin = Math.floor(from / step); bin <= to / step; bin++) {
        share[bin] += Math.max(0.1, (Math.min(to, (bin + 1) * step) - Math.max(from, bin * step)) / step);
      }
    }
    const levels = Array.from(share, (part) => Math.ceil(Math.min(1, part) * 5) / 5);
    for (let bin = 0; bin < levels.length; ) {
      let end = bin + 1;
      while (end < levels.length && levels[end] === levels[bin]) end++;
      if (levels[bin] > 0) box(parent, kind, left + bin * step, Math.min(left + end * step, left + width), y, height).setAttribute("fill-opacity", levels[bin]);
      bin = end;
    }
  }

  function label(parent, text, y, kind = "", at = 0) {
    const room = Math.floor((left - 12 - at) / 6.2);
    const shown = text.length > room ? `${text.slice(0, room - 1)}…` : text;
    const element = make(parent, "text", { class: kind, x: at, y }, shown);
    if (shown !== text) make(element, "title", {}, text);
  }

  function hatch(svg) {
    const pattern = make(make(svg, "defs", {}), "pattern", {
      id: "paused", width: 6, height: 6, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)",
    });
    make(pattern, "rect", { class: "track", width: 6, height: 6 });
    make(pattern, "rect", { style: "fill:var(--paused)", width: 3.2, height: 6 });
  }

  // Lanes: what each draws, and what is under the pointer in it.

  function tickStep(pixels) {
    const steps = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 15e3, 3e4, 6e4, 12e4, 3e5, 6e5, 9e5, 18e5, 36e5, 72e5, 144e5, 288e5, 864e5];
    const wanted = ((view.to - view.from) / width) * pixels;
    return steps.find((step) => step >= wanted) ?? Math.ceil(wanted / 864e5) * 864e5;
  }

  function axis(svg) {
    const step = tickStep(84);
    for (let at = Math.ceil(view.from / step) * step; at <= view.to; at += step) {
      make(svg, "line", { class: "grid", x1: px(x(at)), x2: px(x(at)), y1: 19, y2: bottom });
      make(svg, "text", { x: px(x(at)), y: 12, "text-anchor": "middle" }, clock(at, step));
    }
    label(svg, "time", 12);
  }

  const markLane = {
    height: 16, targets: data.marks.map((mark) => [mark.from, mark.to, mark.text, mark.violation]),
    draw(svg, y) {
      label(svg, "verdicts", y + 12, "head");
      for (const mark of data.marks) {
        if (mark.to < view.from || mark.from > view.to) continue;
        const [a, b] = [inside(x(mark.from)), inside(x(mark.to))];
        const kind = mark.violation ? "violation" : "undecided";
        if (b - a > 3) box(svg, kind, a, b, y + 6, 4);
        const middle = px((a + b) / 2);
        if (mark.violation) make(svg, "path", { class: kind, d: `M${middle} ${y}l8 8l-8 8l-8 -8z` });
        else make(svg, "circle", { class: kind, cx: middle, cy: y + 8, r: 6.5 });
        if (!mark.violation) make(svg, "text", { class: "on-open", x: middle, y: y + 12, "text-anchor": "middle" }, "?");
      }
    },
    shade(svg) {
      for (const mark of data.marks) {
        if (!mark.violation || mark.to < view.from || mark.from > view.to) continue;
        const [a, b] = [inside(x(mark.from)), inside(x(mark.to))];
        box(svg, "violation-shade", a, Math.max(b, a + 1), 19, bottom - 19);
        for (const edge of [a, b]) make(svg, "line", { class: "violation-edge", x1: px(edge), x2: px(edge), y1: 19, y2: bottom });
      }
    },
  };

  function nodeLane(node) {
    const of = (state) => node.states.filter((entry) => entry[2] === state);
    return {
      height: 18,
      draw(svg, y) {
        label(svg, node.name, y + 13, "", 10);
        stretches(svg, of("up"), y + 7, 4, "up", 0);
        if (crowded(seen(node.leads))) crowd(svg, seen(node.leads), y + 1, 16, "lead");
        else node.leads.forEach((lead, place) => leads(svg, y, lead, place % 2 ? "lead other" : "lead"));
        for (const entry of seen(of("paused"))) {
          const from = inside(x(entry[0]));
          box(svg, "", from, Math.max(inside(x(entry[1])), from + 2), y + 3, 12).setAttribute("fill", "url(#paused)");
        }
        stretches(svg, of("down"), y + 4, 10, "down");
      },
    };
  }

  function leads(svg, y, lead, kind) {
    if (lead[1] < view.from || lead[0] > view.to) return;
    const from = inside(x(lead[0]));
    const wide = Math.max(inside(x(lead[1])) - from, 2);
    box(svg, kind, from, from + wide, y + 1, 16);
    const text = wide > 54 ? `term ${lead[2]}` : `${lead[2]}`;
    if (wide > text.length * 6.6 + 4) make(svg, "text", { class: "term", x: px(from + wide / 2), y: y + 13, "text-anchor": "middle" }, text);
  }

  function faultLane(kind) {
    return {
      height: 13, targets: kind.faults,
      draw(svg, y) {
        label(svg, kind.name, y + 11, "", 10);
        make(svg, "line", { class: "grid", x1: left, x2: left + width, y1: y + 7, y2: y + 7 });
        stretches(svg, kind.faults, y + 2, 10, "fault", 2.5);
      },
    };
  }

  const gapLane = {
    height: 16, targets: data.gaps,
    draw(svg, y) {
      label(svg, "no acked write", y + 12, "head");
      stretches(svg, data.gaps, y + 2, 12, "gap", 2);
      seen(data.gaps).forEach(([from, to], place, here) => {
        const [start, end] = [inside(x(from)), inside(x(to))];
        const text = duration(to - from);
        const next = place + 1 < here.length ? x(here[place + 1][0]) : left + width;
        if (end - start > 8 && end + 8 + text.length * 6.2 < next) make(svg, "text", { class: "on-gap", x: px(end + 4), y: y + 12 }, text);
      });
    },
    shade: (svg) => stretches(svg, data.gaps, 19, bottom - 19, "gap-shade", 1),
  };

  const livenessLane = {
    height: 14, targets: data.liveness ? [data.liveness] : [],
    draw(svg, y) {
      label(svg, "liveness", y + 11, "head");
      stretches(svg, [data.liveness], y + 3, 8, "live");
    },
  };

  const noteLane = {
    height: 12,
    draw(svg, y) {
      label(svg, "notes", y + 10, "head");
      let covered = -Infinity;
      for (const [at] of data.notes) {
        if (at < view.from || at > view.to || x(at) < covered + 2) continue;
        covered = x(at);
        make(svg, "path", { class: "note", d: `M${px(covered - 3.5)} ${y + 2}h7l-3.5 8z` });
      }
    },
  };

  const visible = () => [Math.max(0, Math.floor(view.from / data.period)), Math.min(slots, Math.ceil(view.to / data.period))];

  function nice(value) {
    const power = 10 ** Math.floor(Math.log10(value));
    return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((step) => step * power).find((step) => step >= value) ?? value;
  }

  function keys(svg, y, list) {
    list.forEach(([kind, text], place) => {
      make(svg, "rect", { class: kind, x: 10, y: y + place * 15 - 8, width: 9, height: 9, rx: 2 });
      make(svg, "text", { x: 25, y: y + place * 15 }, text);
    });
  }

  function nothing(svg, y, text) {
    make(svg, "text", { class: "nothing", x: left + width / 2, y, "text-anchor": "middle" }, text);
  }

  // Layers of operations per second, one upon the other. What fails has a lane of its own: beside what succeeds it would
  // be too little to see.
  function layersLane(name, layers, laneHeight) {
    const sum = (i) => layers.reduce((sum, layer) => sum + series[layer][i], 0) * (1000 / data.period);
    return {
      height: laneHeight,
      draw(svg, y) {
        label(svg, name, y + 10, "head");
        keys(svg, y + 27, layers.map((layer) => [layer, layer]));
        const [first, last] = visible();
        let most = 0;
        for (let i = first; i < last; i++) most = Math.max(most, sum(i));
        const top = nice(Math.max(most, 1));
        const height = (value) => px(y + laneHeight - (value / top) * laneHeight);
        for (const share of laneHeight > 60 ? [0, 0.5, 1] : [0, 1]) {
          make(svg, "line", { class: share ? "grid" : "base", x1: left, x2: left + width, y1: height(share * top), y2: height(share * top) });
          make(svg, "text", { class: "unit", x: left - 6, y: height(share * top) + (share === 1 ? 8 : share ? 4 : 0), "text-anchor": "end" }, Number((share * top).toPrecision(3)).toLocaleString("en"));
        }
        if (most === 0) nothing(svg, y + laneHeight / 2 + 4, "none");
        const floor = new Array(Math.max(0, last - first)).fill(0);
        for (const layer of layers) make(svg, "path", { class: layer, d: area(layer, floor, first, last, height) });
      },
    };
  }

  function area(layer, floor, first, last, height) {
    let path = "";
    for (let i = first; i < last; i++) {
      const value = series[layer][i] * (1000 / data.period);
      if (value === 0) continue;
      const [from, to] = [inside(x(i * data.period)), inside(x((i + 1) * data.period))];
      const low = height(floor[i - first]);
      floor[i - first] += value;
      // What is there shows, however little it is beside the rest.
      const high = Math.min(height(floor[i - first]), low - 0.8);
      path += `M${px(from)} ${low}V${px(high)}H${px(Math.max(to, from + 0.8))}V${low}z`;
    }
    return path;
  }

  const rateLane = layersLane("answered / s", LAYERS.filter((layer) => layer === "acked" || layer === "refused"), 76);
  const errorLane = layersLane("errors / s", ["failed", "unknown"], 46);

  function decades(first, last) {
    let [least, most] = [Infinity, 0];
    for (let i = first; i < last; i++) {
      if (series.p50[i] === null) continue;
      least = Math.min(least, series.p50[i]);
      most = Math.max(most, series.max[i]);
    }
    if (most === 0 && least === Infinity) return [3, 6];
    const low = Math.floor(Math.log10(Math.max(1, least)));
    return [low, Math.max(low + 1, Math.ceil(Math.log10(Math.max(1, most))))];
  }

  const latencyLane = {
    height: 92,
    draw(svg, y) {
      label(svg, "latency", y + 10, "head");
      keys(svg, y + 28, [["max", "longest"], ["key99", "p99"], ["key50", "p50"]]);
      const [first, last] = visible();
      const [low, high] = decades(first, last);
      const height = (us) => px(y + this.height - ((Math.log10(Math.max(us, 10 ** low)) - low) / (high - low)) * this.height);
      for (let power = low; power <= high; power++) {
        const at = height(10 ** power);
        make(svg, "line", { class: power === low ? "base" : "grid", x1: left, x2: left + width, y1: at, y2: at });
        const unit = power < 3 ? [10 ** power, "µs"] : power < 6 ? [10 ** (power - 3), "ms"] : [10 ** (power - 6), "s"];
        make(svg, "text", { class: "unit", x: left - 6, y: at + (power === high ? 8 : 3), "text-anchor": "end" }, unit.join(" "));
      }
      if (series.p50.slice(first, last).every((value) => value === null)) nothing(svg, y + this.height / 2 + 4, "nothing was answered");
      let longest = "";
      for (let i = first; i < last; i++) {
        if (series.max[i] === null) continue;
        const [from, to] = [inside(x(i * data.period)), inside(x((i + 1) * data.period))];
        longest += `M${px(from)} ${height(series.p99[i])}V${height(series.max[i])}H${px(Math.max(to, from + 0.6))}V${height(series.p99[i])}z`;
      }
      make(svg, "path", { class: "max", d: longest });
      for (const column of ["p99", "p50"]) make(svg, "path", { class: column, d: line(column, first, last, height) });
    },
  };

  // Steps, since a number stands for the whole of its time.
  function line(column, first, last, height) {
    let path = "";
    let drawing = false;
    for (let i = first; i < last; i++) {
      const value = series[column][i];
      if (value !== null) {
        const [from, to] = [px(inside(x(i * data.period))), px(inside(x((i + 1) * data.period)))];
        path += drawing ? `V${height(value)}H${to}` : `M${from} ${height(value)}H${to}`;
      }
      drawing = value !== null;
    }
    return path;
  }

  const overview = {
    height: 26,
    draw(svg, y) {
      label(svg, "whole run", y + 17, "head");
      const whole = (ms) => left + (ms / data.length) * width;
      make(svg, "rect", { class: "track", x: left, y, width, height: this.height });
      let most = 1;
      for (let i = 0; i < slots; i++) most = Math.max(most, rate(series, i));
      let path = `M${left} ${y + this.height}`;
      for (let i = 0; i < slots; i++) path += `V${px(y + this.height - (rate(series, i) / most) * (this.height - 4))}H${px(Math.min(left + width, whole((i + 1) * data.period)))}`;
      make(svg, "path", { class: "refused", d: `${path}V${y + this.height}z` });
      for (const mark of data.marks.filter((mark) => mark.violation)) box(svg, "violation", whole(mark.from), Math.max(whole(mark.to), whole(mark.from) + 2), y, this.height);
      box(svg, "window", whole(view.from), Math.max(whole(view.to), whole(view.from) + 3), y, this.height);
    },
  };

  function layout() {
    const list = [];
    let y = 24;
    const place = (lane, space) => {
      y += space;
      list.push({ ...lane, lane, y });
      y += lane.height;
    };
    const title = (text) => place({ height: 14, draw: (svg, at) => label(svg, text, at + 11, "head") }, 6);
    if (data.marks.length) place(markLane, 0);
    if (data.nodes.length) title("nodes");
    data.nodes.forEach((node) => place(nodeLane(node), 1));
    if (data.kinds.length) title("faults");
    data.kinds.forEach((kind) => place(faultLane(kind), 0));
    if (data.notes.length) place(noteLane, 6);
    if (data.liveness) place(livenessLane, 6);
    place(gapLane, 6);
    place(rateLane, 10);
    place(errorLane, 14);
    place(latencyLane, 14);
    bottom = y;
    if (zoomed()) place(overview, 12);
    return list;
  }

  const zoomed = () => view.from > 0 || view.to < data.length;

  let svg = null;
  function draw() {
    const whole = plot.clientWidth;
    left = whole < 760 ? 118 : 150;
    width = Math.max(80, whole - left - RIGHT);
    lanes = layout();
    const end = lanes[lanes.length - 1];
    const height = end.y + end.height + 4;
    const next = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    for (const [name, value] of [["viewBox", `0 0 ${whole} ${height}`], ["role", "img"], ["aria-label", "timeline of the run"]]) next.setAttribute(name, value);
    hatch(next);
    axis(next);
    for (const { lane } of lanes) lane.shade?.(next);
    for (const { lane, y } of lanes) lane.draw(next, y);
    svg?.remove();
    plot.append(next);
    svg = next;
    const step = tickStep(84);
    byId("range").textContent = `${clock(view.from, step)} – ${clock(view.to, step)}`;
    for (const id of ["back", "on", "out", "whole"]) byId(id).disabled = !zoomed();
    byId("in").disabled = view.to - view.from <= SPAN_MIN;
  }

  // What the view shows

  function show(from, to) {
    const span = Math.min(data.length, Math.max(SPAN_MIN, to - from));
    const middle = (from + to) / 2;
    view.from = Math.min(Math.max(0, middle - span / 2), data.length - span);
    view.to = view.from + span;
    hideTip();
    draw();
  }

  const around = (from, to) => {
    const room = Math.max(0.75 * (to - from), 1000);
    show(from - room, to + room);
  };
  const zoom = (factor, at = (view.from + view.to) / 2) => show(at - (at - view.from) * factor, at + (view.to - at) * factor);
  const move = (share) => {
    const span = view.to - view.from;
    const from = Math.min(Math.max(0, view.from + share * span), data.length - span);
    show(from, from + span);
  };
  const whole = () => show(0, data.length);

  // What is under the pointer

  const during = (entry, at, near = 0) => entry[0] - near <= at && at <= entry[1] + near;

  // In its own lane, what is narrow can be hit a few pixels beside it.
  const under = (list, at, lane) => list.filter((entry) => during(entry, at, lane?.targets === list ? ((view.to - view.from) / width) * 4 : 0));

  function tell(at, lane) {
    const lines = [["", "", clock(at, Math.min(100, tickStep(84))), true]];
    for (const mark of under(markLane.targets, at, lane)) lines.push([mark[3] ? "violation" : "undecided", "", mark[2], true]);
    for (const [from, to] of under(data.gaps, at, lane)) lines.push(["gap", "", `no acked write for ${duration(to - from)}`]);
    const leads = data.nodes.flatMap((node) => node.leads.filter((lead) => during(lead, at)).map((lead) => `${node.name} leads term ${lead[2]}`));
    if (data.nodes.length) lines.push([leads.length ? "leader" : "", "", leads.join(", ") || "no leader seen"]);
    for (const node of data.nodes) {
      const state = node.states.find((entry) => during(entry, at))?.[2];
      if (state === "down" || state === "paused") lines.push([state, "", `${node.name} ${state}`]);
    }
    lines.push(...faultsAt(at, lane));
    const near = ((view.to - view.from) / width) * 4;
    for (const [, text] of data.notes.filter((note) => Math.abs(note[0] - at) <= near).slice(0, 4)) lines.push(["note", "small", text]);
    if (data.liveness && during(data.liveness, at)) lines.push(["live", "", "all faults are over: it must serve again"]);
    return lines.concat(clientsAt(Math.floor(at / data.period)));
  }

  function faultsAt(at, lane) {
    const entries = data.kinds.flatMap((kind) => under(kind.faults, at, lane).map((fault) => {
      const lasted = fault[1] > fault[0] ? ` (${duration(fault[1] - fault[0])})` : "";
      return ["fault", "", `${kind.name} ${fault[2]}`, false, `${fault[3]}${lasted}`];
    }));
    return entries.length > 6 ? [...entries.slice(0, 6), ["", "small", `and ${entries.length - 6} more`]] : entries;
  }

  function clientsAt(i) {
    if (i < 0 || i >= slots) return [];
    const parts = LAYERS.filter((layer) => series[layer][i] > 0 || layer === "acked").map((layer) => `${layer} ${perSecond(series[layer][i] * (1000 / data.period))}/s`);
    const lines = [["", "small", parts.join(", ")]];
    if (series.p50[i] !== null) lines.push(["", "small", `p50 ${micros(series.p50[i])}, p99 ${micros(series.p99[i])}, longest ${micros(series.max[i])}`]);
    return lines;
  }

  const COLOURS = { violation: "bad", undecided: "unknown", gap: "gap", leader: "leader", down: "down", paused: "paused", fault: "fault", note: "faint", live: "live" };

  function showTip(event, at, lane) {
    tip.replaceChildren();
    for (const [colour, kind, text, bold, more] of tell(at, lane)) {
      const row = document.createElement("div");
      row.className = kind;
      if (colour) {
        const swatch = document.createElement("i");
        swatch.style.background = `var(--${COLOURS[colour]})`;
        row.append(swatch);
      }
      const main = document.createElement(bold ? "b" : "span");
      main.textContent = text;
      row.append(main);
      if (more) {
        const small = document.createElement("span");
        small.className = "small";
        small.textContent = `: ${more}`;
        row.append(small);
      }
      tip.append(row);
    }
    tip.hidden = false;
    const { width: w, height: h } = tip.getBoundingClientRect();
    const beside = event.clientX + 16 + w > window.innerWidth ? event.clientX - w - 14 : event.clientX + 16;
    tip.style.left = `${Math.max(4, beside)}px`;
    tip.style.top = `${Math.max(4, Math.min(event.clientY + 14, window.innerHeight - h - 8))}px`;
  }

  let cross = null;
  function hideTip() {
    tip.hidden = true;
    cross?.remove();
    cross = null;
  }

  // Pointer and keys

  let drag = null;

  function spot(event) {
    const frame = plot.getBoundingClientRect();
    const position = event.clientX - frame.left;
    const y = event.clientY - frame.top;
    return { position, at: moment(inside(position)), lane: lanes.find((lane) => lane.y - 2 <= y && y < lane.y + lane.height + 2), y };
  }

  plot.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    const here = spot(event);
    if (here.position < left - 4) return;
    plot.setPointerCapture(event.pointerId);
    drag = { from: here.position, scroll: here.lane?.lane === overview, brush: null };
    if (drag.scroll) scroll(here.position);
  });

  function scroll(position) {
    const at = ((inside(position) - left) / width) * data.length;
    const span = view.to - view.from;
    const from = Math.min(Math.max(0, at - span / 2), data.length - span);
    show(from, from + span);
  }

  plot.addEventListener("pointermove", (event) => {
    const here = spot(event);
    if (drag?.scroll) return scroll(here.position);
    if (drag) {
      const [a, b] = [inside(Math.min(drag.from, here.position)), inside(Math.max(drag.from, here.position))];
      if (b - a < 5 && !drag.brush) return;
      drag.brush?.remove();
      drag.brush = box(svg, "brush", a, b, 19, bottom - 19);
      hideTip();
      return;
    }
    hideTip();
    if (here.position < left - 4 || here.position > left + width + 4 || here.lane?.lane === overview) return;
    const position = px(inside(here.position));
    cross = make(svg, "line", { class: "cross", x1: position, x2: position, y1: 19, y2: bottom });
    showTip(event, here.at, here.lane?.lane);
  });

  plot.addEventListener("pointerup", (event) => {
    const ended = drag;
    drag = null;
    if (!ended || ended.scroll) return;
    const here = spot(event);
    if (ended.brush) {
      const ends = [moment(inside(ended.from)), moment(inside(here.position))].sort((a, b) => a - b);
      return show(...ends);
    }
    const [hit] = under(here.lane?.targets ?? [], here.at, here.lane).sort((a, b) => a[1] - a[0] - (b[1] - b[0]));
    if (hit) around(hit[0], hit[1]);
  });

  plot.addEventListener("pointercancel", () => {
    drag?.brush?.remove();
    drag = null;
  });
  plot.addEventListener("pointerleave", () => drag || hideTip());
  plot.addEventListener("dblclick", whole);
  // With Ctrl, as a pinch on a touch pad arrives too; without it the page scrolls.
  plot.addEventListener("wheel", (event) => {
    if (!event.ctrlKey) return;
    event.preventDefault();
    zoom(event.deltaY > 0 ? 1.25 : 0.8, spot(event).at);
  }, { passive: false });

  const KEYS = { ArrowLeft: () => move(-0.25), ArrowRight: () => move(0.25), "+": () => zoom(0.5), "-": () => zoom(2), Home: whole };
  plot.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key]) return;
    event.preventDefault();
    KEYS[event.key]();
  });
  document.addEventListener("keydown", (event) => event.key === "Escape" && zoomed() && whole());

  byId("back").addEventListener("click", () => move(-0.5));
  byId("on").addEventListener("click", () => move(0.5));
  byId("in").addEventListener("click", () => zoom(0.5));
  byId("out").addEventListener("click", () => zoom(2));
  byId("whole").addEventListener("click", whole);

  for (const button of document.querySelectorAll("button.show")) {
    button.addEventListener("click", () => {
      around(Number(button.dataset.from), Number(button.dataset.to));
      byId("timeline").scrollIntoView({ behavior: "smooth" });
    });
  }

  byId("copy")?.addEventListener("click", async () => {
    const button = byId("copy");
    try {
      await navigator.clipboard.writeText(byId("command").textContent);
      button.textContent = "copied";
    } catch {
      // A page from a file may be kept from the clipboard: then the command is at least selected.
      window.getSelection().selectAllChildren(byId("command"));
      button.textContent = "selected";
    }
    setTimeout(() => (button.textContent = "copy"), 1500);
  });

  const choice = byId("series");
  choice.hidden = data.series.length < 2;
  data.series.forEach((one, place) => {
    const option = document.createElement("option");
    option.value = place;
    option.textContent = one.name;
    choice.append(option);
  });
  choice.addEventListener("change", () => {
    series = data.series[Number(choice.value)];
    draw();
  });

  // The legend of what its lane does not explain.

  function legend() {
    const states = new Set(data.nodes.flatMap((node) => node.states.map((state) => state[2])));
    const list = [
      [data.nodes.some((node) => node.leads.length), { class: "lead" }, "leads, with its term"],
      [states.has("up"), { class: "up", y: 3.5, height: 4 }, "up"],
      [states.has("paused"), { fill: "url(#paused)" }, "paused"],
      [states.has("down"), { class: "down" }, "down"],
      [data.gaps.length, { class: "gap-shade" }, "no acked write"],
    ];
    for (const [wanted, look, text] of list) {
      if (!wanted) continue;
      const entry = document.createElement("span");
      const picture = make(entry, "svg", { viewBox: "0 0 16 11" });
      make(picture, "rect", { width: 16, height: 11, rx: 1.5, ...look });
      entry.append(text);
      byId("legend").append(entry);
    }
  }

  legend();
  draw();
  let drawn = plot.clientWidth;
  new ResizeObserver(() => {
    if (plot.clientWidth === drawn) return;
    drawn = plot.clientWidth;
    draw();
  }).observe(plot);
})();
