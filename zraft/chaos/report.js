"use strict";
// A cursor through all charts at once, and what happened in the second below it.
window.addEventListener("error", (event) => { document.documentElement.dataset.error = event.message; });
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const tip = document.getElementById("tip");
  const charts = [...document.querySelectorAll("svg[data-left]")];
  const cursors = charts.map((svg) => {
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    line.setAttribute("class", "cursor");
    line.setAttribute("y1", "0");
    line.setAttribute("y2", String(svg.viewBox.baseVal.height - 20));
    svg.append(line);
    return line;
  });
  const ms = (value) => (value === null ? "none" : value.toFixed(1) + " ms");
  function words(at) {
    const second = data.seconds[Math.min(Math.floor(at), data.seconds.length - 1)];
    const lines = [at.toFixed(1) + " s"];
    if (second) {
      lines.push(second.ok + " ok, " + second.unknown + " unknown, " + second.fail + " not applied");
      lines.push("p50 " + ms(second.p50_ms) + ", p99 " + ms(second.p99_ms) + ", max " + ms(second.max_ms));
    }
    for (const fault of data.timeline) {
      const near = fault.kind === "actors" ? 0.15 : 0;
      if (fault.start_s - near <= at && at <= (fault.end_s ?? data.end_s) + near) {
        lines.push((near ? "kills " : "") + fault.what + " " + fault.nodes.join(", "));
      }
    }
    return lines.slice(0, 12).join("\n");
  }
  function hide() {
    tip.style.visibility = "hidden";
    for (const line of cursors) line.style.visibility = "hidden";
  }
  for (const svg of charts) {
    svg.addEventListener("mouseleave", hide);
    svg.addEventListener("mousemove", (event) => {
      const box = svg.getBoundingClientRect();
      const left = Number(svg.dataset.left), right = Number(svg.dataset.right);
      const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
      if (x < left || x > right) { hide(); return; }
      for (const line of cursors) {
        line.setAttribute("x1", String(x));
        line.setAttribute("x2", String(x));
        line.style.visibility = "visible";
      }
      tip.textContent = words(((x - left) / (right - left)) * data.end_s);
      tip.style.visibility = "visible";
      tip.style.left = Math.min(event.clientX + 16, window.innerWidth - tip.offsetWidth - 8) + "px";
      tip.style.top = Math.min(event.clientY + 16, window.innerHeight - tip.offsetHeight - 8) + "px";
    });
  }
  document.documentElement.dataset.ready = "yes";
})();
