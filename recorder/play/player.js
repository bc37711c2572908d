"use strict";
(function () {
  var data = JSON.parse(document.getElementById("data").textContent);
  var $ = function (id) { return document.getElementById(id); };
  var frames = data.frames, total = data.duration, screen = $("screen");
  var at = -1, rows = [], size = [0, 0], cursor = [-1, -1], keys = [], lines = [];
  var playing = false, now = 0, began = 0, from = 0;

  // A frame is [ms, [row, content, ...], cursor x, cursor y, columns, rows].
  function apply(i) {
    var f = frames[i], c = f[1];
    if (size[0] !== f[4] || size[1] !== f[5]) {
      size = [f[4], f[5]];
      rows.length = f[5];
    }
    for (var k = 0; k < c.length; k += 2) rows[c[k]] = c[k + 1];
    cursor = [f[2], f[3]];
  }
  for (var i = 0; i < frames.length; i++) {
    if (i % 200 === 0) keys.push([rows.slice(), size, cursor]);
    apply(i);
  }

  function go(t) {
    now = Math.max(0, Math.min(t, total));
    var lo = 0, hi = frames.length;
    while (lo < hi) {
      var mid = (lo + hi) >> 1;
      if (frames[mid][0] <= now) lo = mid + 1; else hi = mid;
    }
    show(lo - 1);
  }

  function show(i) {
    if (i < 0) i = 0;
    if (i < at || i - at > 200 || at < 0) {
      var k = keys[Math.floor(i / 200)];
      rows = k[0].slice(); size = k[1]; cursor = k[2];
      at = Math.floor(i / 200) * 200 - 1;
    }
    while (at < i && at + 1 < frames.length) apply(++at);
    draw();
  }

  // Text is only ever set as text: nothing in a recording becomes part of the page.
  function draw() {
    while (screen.children.length > size[1]) { screen.removeChild(screen.lastChild); lines.pop(); }
    while (screen.children.length < size[1]) { screen.appendChild(document.createElement("div")); lines.push(null); }
    screen.style.width = size[0] + "ch";
    for (var y = 0; y < size[1]; y++) {
      var want = (rows[y] || 0) + (cursor[1] === y ? ":" + cursor[0] : "");
      if (lines[y] === want) continue;
      lines[y] = want;
      var div = screen.children[y], x = 0, cut = cursor[1] === y ? cursor[0] : -1;
      div.textContent = "";
      (data.rows[rows[y] || 0] || []).forEach(function (run) {
        if (run[2]) { add(div, "i", run[0], run[1], x === cut); x += 2; return; }
        var all = Array.from(run[0]);
        if (cut >= x && cut < x + all.length) split(div, all, run[1], cut - x);
        else add(div, "span", run[0], run[1], false);
        x += all.length;
      });
      if (cut >= x) { if (cut > x) add(div, "span", " ".repeat(cut - x), 0, false); add(div, "span", " ", 0, true); }
    }
    $("time").textContent = clock(now) + " / " + clock(total);
    if (document.activeElement !== $("seek") || playing) $("seek").value = total ? Math.round(now / total * 10000) : 0;
    $("play").textContent = playing ? "Pause" : "Play";
  }
  function split(div, all, style, n) {
    if (n > 0) add(div, "span", all.slice(0, n).join(""), style, false);
    add(div, "span", all[n], style, true);
    if (n + 1 < all.length) add(div, "span", all.slice(n + 1).join(""), style, false);
  }
  function add(div, tag, text, style, cur) {
    var e = document.createElement(tag);
    e.textContent = text;
    e.className = "s" + (style | 0) + (cur ? " cur" : "");
    div.appendChild(e);
  }
  function clock(ms) {
    var s = Math.floor(ms / 1000), two = function (n) { return (n < 10 ? "0" : "") + n; };
    return Math.floor(s / 3600) + ":" + two(Math.floor(s / 60) % 60) + ":" + two(s % 60);
  }

  function start() { playing = true; began = performance.now(); from = now; requestAnimationFrame(tick); draw(); }
  function stop() { playing = false; draw(); }
  function toggle() { if (playing) return stop(); if (now >= total) go(0); start(); }
  function jump(t) { go(t); began = performance.now(); from = now; }
  function tick() {
    if (!playing) return;
    var t = from + (performance.now() - began) * Number($("speed").value), next = frames[at + 1];
    // Pauses are cut to two seconds.
    if ($("idle").checked && next && frames[at] && t - frames[at][0] > 2000 && next[0] > t) { jump(next[0]); t = now; }
    go(t);
    if (now >= total) return stop();
    requestAnimationFrame(tick);
  }

  function find(back) {
    var word = $("find").value.toLowerCase(), hit = {};
    if (!word) return;
    data.rows.forEach(function (r, n) {
      if (r.map(function (run) { return run[0]; }).join("").toLowerCase().indexOf(word) >= 0) hit[n] = true;
    });
    for (var i = at + (back ? -1 : 1); i >= 0 && i < frames.length; i += back ? -1 : 1) {
      for (var k = 1; k < frames[i][1].length; k += 2) if (hit[frames[i][1][k]]) { stop(); return jump(frames[i][0]); }
    }
  }
  function mark(back) {
    var m = data.marks.filter(function (m) { return back ? m[0] < now - 1 : m[0] > now; });
    if (m.length) jump(back ? m[m.length - 1][0] : m[0][0]);
  }

  $("play").onclick = toggle;
  $("seek").oninput = function () { jump(total * this.value / 10000); };
  $("next").onclick = function () { find(false); };
  $("last").onclick = function () { find(true); };
  $("speed").onchange = function () { jump(now); };
  document.onkeydown = function (e) {
    if (e.target === $("find")) { if (e.key === "Enter") find(e.shiftKey); return; }
    if (e.ctrlKey || e.metaKey || e.altKey || e.target.tagName === "SELECT") return;
    var k = { " ": toggle, "ArrowRight": function () { jump(now + 5000); }, "ArrowLeft": function () { jump(now - 5000); },
      ".": function () { stop(); if (frames[at + 1]) jump(frames[at + 1][0]); }, "c": function () { mark(false); }, "C": function () { mark(true); },
      "n": function () { find(false); }, "N": function () { find(true); } }[e.key];
    if (k) { k(); e.preventDefault(); }
  };
  data.marks.forEach(function (m) {
    var li = document.createElement("li"), time = document.createElement("time");
    time.textContent = clock(m[0]);
    li.appendChild(time);
    li.appendChild(document.createTextNode(m[1]));
    li.onclick = function () { jump(m[0]); };
    $("marks").appendChild(li);
  });
  var begin = /^#t=([0-9.]+)$/.exec(location.hash);
  go(begin ? begin[1] * 1000 : 0);
})();
