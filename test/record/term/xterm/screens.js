// Plays output on xterm.js and says what the screen is. Reads one JSON document from standard input: a list of
// {cols, rows, steps}, a step being {data} (base64), {resize: [cols, rows]} or {look: true}. Writes a list of the
// looks of each.
'use strict';
const { Terminal } = require('@xterm/headless');
const { Unicode11Addon } = require('@xterm/addon-unicode11');

function color(cell, what) {
  const v = cell['get' + what + 'Color']();
  if (cell['is' + what + 'Default']()) return 'd';
  return (cell['is' + what + 'RGB']() ? 'r' : 'p') + v;
}

function look(t) {
  const b = t.buffer.active;
  const rows = [];
  const cell = b.getNullCell();
  for (let y = 0; y < t.rows; y++) {
    const line = b.getLine(b.baseY + y);
    const row = [];
    let last = '';
    for (let x = 0; x < t.cols; x++) {
      line.getCell(x, cell);
      let style = 0;
      ['Bold', 'Dim', 'Italic', 'Blink', 'Inverse', 'Invisible', 'Strikethrough', 'Overline', 'Underline'].forEach((a, i) => {
        if (cell['is' + a]()) style |= 1 << i;
      });
      // What is as in the cell before is left out.
      const more = [cell.getWidth(), color(cell, 'Fg'), color(cell, 'Bg'), style].join();
      row.push((cell.getChars() || ' ') + (more === last ? '' : '\x1e' + more));
      last = more;
    }
    rows.push(row.join('\x1f'));
  }
  const m = t.modes;
  return {
    rows, x: Math.min(b.cursorX, t.cols - 1), y: b.cursorY, alt: b.type === 'alternate',
    modes: [m.applicationCursorKeysMode, m.applicationKeypadMode, m.bracketedPasteMode, m.insertMode, m.originMode,
      m.reverseWraparoundMode, m.sendFocusMode, m.wraparoundMode, m.mouseTrackingMode],
  };
}

async function play(job) {
  const t = new Terminal({
    cols: job.cols, rows: job.rows, scrollback: 0, allowProposedApi: true, logLevel: 'off',
    // No reflow, and no lines from the scrollback when the window grows.
    windowsPty: { backend: 'winpty', buildNumber: 1 },
  });
  t.loadAddon(new Unicode11Addon());
  t.unicode.activeVersion = '11';
  const looks = [];
  // Each write waits for a timer.
  let data = [];
  for (const s of job.steps) {
    if (s.data !== undefined) data.push(Buffer.from(s.data, 'base64'));
    if (data.length && (s.resize || s.look)) {
      await new Promise((done) => t.write(Buffer.concat(data), done));
      data = [];
    }
    if (s.resize) t.resize(s.resize[0], s.resize[1]);
    if (s.look) looks.push(look(t));
  }
  t.dispose();
  return looks;
}

(async () => {
  let input = '';
  for await (const chunk of process.stdin) input += chunk;
  const out = [];
  for (const job of JSON.parse(input)) out.push(await play(job));
  process.stdout.write(JSON.stringify(out));
})();
