"""The preview page of 1,000 videos: seconds and memory to make it, its size, and how it behaves in Chromium, in real time.

    python benchmarks/preview.py [--output benchmarks/results/preview.json] [--videos 1000] [--folder DIR] [--keep]

The videos are rendered ones of 320x240 (`tgprep sample`), 40 of them, each repeated under other names. The page is opened by a headless
Chromium of 1200x800 from a server on this machine that takes back what a script in the page measured: until it is ready, each way of filtering with its layout,
opening a video, and scrolling from top to end, 400 pixels a frame (the gaps between frames; tasks of over 50 ms, which a user notices as stalling).
"""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from manifests.manifest_io import file_sha256, read_manifest, write_manifest
from manifests.records import ShardRow, VideoRow
from manifests.sample import EncodedVideo, FrameSpool, sample_facts, write_end, write_sample
from manifests.splits.label_split import make_split, write_split
from manifests.splits.settings import SplitSettings
from tgprep.config import ExtractSettings, WorkerSettings
from tgprep.convert.export_rawframes import read_jpegs
from tgprep.extract.pipeline import extract
from tgprep.extract.workers.shards import Request
from tgprep.obtain.sample import SampleSettings, render_sample
from tgprep.scan.scan import scan

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
SWITCHES = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --hide-scrollbars --window-size=1200,800 "
    "--disable-background-networking --disable-component-update --disable-sync --enable-precise-memory-info"
)
PROBE = """<script>(async () => {
  const frame = () => new Promise((done) => requestAnimationFrame(done)), tasks = [], answer = {};
  new PerformanceObserver((list) => tasks.push(...list.getEntries().map((entry) => entry.duration))).observe({ type: "longtask", buffered: true });
  const timed = async (name, act) => { const began = performance.now(); act(); document.body.offsetHeight; answer[name] = performance.now() - began; await frame(); await frame(); };
  answer.script_ms = performance.now();
  await frame(); await frame();
  answer.first_frame_ms = performance.now();
  await new Promise((done) => setTimeout(done, 1000));
  answer.pictures_made = loaded.size;
  answer.long_tasks_at_start_ms = tasks.splice(0);
  await timed("filter_text_ms", () => { $("text").value = "g01"; apply(); });
  await timed("filter_part_ms", () => { $("text").value = ""; $("role").value = "test"; apply(); });
  await timed("filter_class_ms", () => { $("role").value = ""; $("class").selectedIndex = 1; apply(); });
  await timed("all_again_ms", () => { $("class").value = ""; apply(); });
  await timed("open_video_ms", () => open(data.videos[500]));
  $("detail").close(); await frame();
  tasks.splice(0);
  scrollTo(0, 0); await frame();
  const gaps = [], began = performance.now(); let last = began;
  while (scrollY + innerHeight < document.documentElement.scrollHeight - 2 && gaps.length < 5000) {
    scrollBy(0, 400); await frame();
    gaps.push(performance.now() - last); last = performance.now();
  }
  gaps.sort((a, b) => a - b);
  Object.assign(answer, { scroll_frames: gaps.length, scroll_seconds: (performance.now() - began) / 1000, scroll_gap_median_ms: gaps[gaps.length >> 1],
    scroll_gap_p95_ms: gaps[Math.floor(gaps.length * 0.95)], scroll_gap_max_ms: gaps[gaps.length - 1], scroll_long_tasks: tasks.length,
    scroll_longest_task_ms: Math.max(0, ...tasks), heap_mb: performance.memory ? performance.memory.usedJSHeapSize / 1e6 : -1, cards: cards.size });
  return answer;
})().then((answer) => fetch("/answer", { method: "POST", body: JSON.stringify(answer) }),
          (error) => fetch("/answer", { method: "POST", body: JSON.stringify({ error: String(error) }) }));</script>"""


def make(root: Path, num_videos: int) -> None:
    """A data set of `num_videos` samples: rendered videos of 320x240, repeated."""
    settings = SampleSettings(num_classes=8, num_groups=5, clips_per_group=1, width=320, height=240)
    render_sample(root / "videos", settings)
    found = scan(root / "videos", dataset="folder")
    small = extract(Request(root / "videos", root / "small", ExtractSettings(), WorkerSettings()), found).manifest
    out = root / "dataset"
    out.mkdir()
    rows: list[VideoRow] = []
    name = "shard-000000.tar"
    with (out / name).open("w+b") as tar:
        sources = [row for row in small.videos if row.status == "written"]
        spools = {row.key: [_spool(read_jpegs(small, row, kind)) for kind in ("rgb", "tg")] for row in sources}
        for number in range(num_videos):
            row = sources[number % len(sources)]
            row = replace(row, key=f"{row.key}_{number:04}", group=f"g{number // 40:02}", shard=name)
            rgb, tg = spools[sources[number % len(sources)].key]
            facts = sample_facts(row, small.header.settings, small.header.gradient)
            encoded = EncodedVideo(row.key, facts, rgb, tg)
            offset, size, members = write_sample(tar, encoded)
            rows.append(replace(row, sample_offset=offset, sample_bytes=size, members=members))
        write_end(tar)
    shard = ShardRow(name, len(rows), (out / name).stat().st_size, file_sha256(out / name))
    write_manifest(out, replace(small.header, num_written=len(rows)), sorted(rows, key=lambda row: row.key), [shard])
    write_split(out, make_split(read_manifest(out), SplitSettings(percent=20, test_percent=20)))


def _spool(jpegs: Any) -> FrameSpool:
    spool = FrameSpool(io.BytesIO())
    for jpeg in jpegs:
        spool.append(jpeg)
    return spool


def browse(page: str, folder: Path) -> dict[str, Any]:
    """What the probe in the page measured in a Chromium of its own."""
    answer: dict[str, Any] = {}
    ready = threading.Event()
    # The page forbids itself every connection; the probe needs one to its server.
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page).replace("</body>", f"{PROBE}</body>")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = page.encode() if self.path == "/" else b""
            self.send_response(200 if body else 404)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            answer.update(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()
            ready.set()

        def log_message(self, format: str, *words: Any) -> None:
            pass

    program = next((found for name in CHROMIUM if (found := shutil.which(name))), None)
    if program is None:
        raise SystemExit("This needs Chromium: apt-get install chromium.")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    command = [program, *SWITCHES.split(), f"--user-data-dir={folder / 'profile'}", "--remote-debugging-port=0"]
    with (folder / "chromium.log").open("wb") as log:
        browser = subprocess.Popen([*command, f"http://127.0.0.1:{server.server_address[1]}/"], stdout=log, stderr=log)
        try:
            if not ready.wait(300):
                raise SystemExit("The page did not answer within five minutes.")
        finally:
            browser.terminate()
            browser.wait()
            server.shutdown()
    if "error" in answer:
        raise SystemExit(f"The script in the page failed: {answer['error']}")
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    return {
        "chromium": version,
        **{name: round(value, 1) if isinstance(value, float) else value for name, value in answer.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/preview.json"))
    parser.add_argument("--videos", type=int, default=1000)
    parser.add_argument("--folder", type=Path, help="where the data set is made (default: a temporary folder)")
    parser.add_argument("--keep", action="store_true", help="take the data set that is there, and leave it")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.make:
        make(arguments.make, arguments.videos)
        return
    root = arguments.folder or Path(tempfile.mkdtemp())
    root.mkdir(parents=True, exist_ok=True)
    try:
        if not (root / "dataset").exists():  # in a process of its own, so that its memory is not counted
            command = [sys.executable, __file__, "--make", str(root), "--videos", str(arguments.videos)]
            subprocess.run(command, check=True)
        words = [
            "preview",
            str(root / "dataset"),
            "--output",
            str(root / "page.html"),
            "--max-videos",
            str(arguments.videos),
        ]
        began = time.monotonic()
        process = os.posix_spawn(sys.executable, [sys.executable, "-m", "tgprep", *words], os.environ)
        _, status, usage = os.wait4(process, 0)
        if status:
            raise SystemExit("tgprep preview failed")
        made = {
            "seconds": round(time.monotonic() - began, 1),
            "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
            "peak_mb": round(usage.ru_maxrss / 1024, 1),
            "page_mb": round((root / "page.html").stat().st_size / 1e6, 2),
        }
        seen = browse((root / "page.html").read_text("utf-8"), root)
    finally:
        if not arguments.keep:
            shutil.rmtree(root, ignore_errors=True)
    result = {
        "what": f"the preview page of {arguments.videos} videos of 320x240, in real time",
        "date": time.strftime("%Y-%m-%d"),
        "machine": {"cores": os.cpu_count(), "platform": platform.platform(), "python": platform.python_version()},
        "versions": {name: importlib.metadata.version(name) for name in ("tgprep", "simplejpeg", "numpy")},
        "num_videos": arguments.videos,
        "made": made,
        "in_the_browser": seen,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
