"""`tgprep preview`: what is chosen and shown, one file that needs no network, and its life in a real browser."""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from cli.prep import main
from manifests.manifest_io import read_manifest
from manifests.records import InputError
from manifests.splits.label_split import make_split, write_split
from manifests.splits.settings import SplitSettings
from manifests.table import Manifest
from tests.prep.support import extract_videos
from tgprep.obtain.sample import SampleSettings, render_sample
from tgprep.view.preview import choose_videos, write_preview


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of four groups, one class without videos that decode, names that would break a careless page."""
    root = tmp_path_factory.mktemp("preview")
    settings = SampleSettings(
        num_classes=3, num_groups=4, clips_per_group=1, width=64, height=48, min_frames=30, max_frames=40
    )
    render_sample(root / "videos", settings)
    broken = root / "videos" / "Z & <b>"
    broken.mkdir()
    (broken / "a <i>'\".avi").write_bytes(b"no video")
    outcome = extract_videos(root / "videos", root / "dataset", videos_per_shard=8)
    write_split(
        root / "dataset",
        make_split(outcome.manifest, SplitSettings(percent=50, strategy="stratified", test_percent=25, name="mine")),
    )
    return root / "dataset"


@pytest.fixture(scope="module")
def manifest(dataset: Path) -> Manifest:
    return read_manifest(dataset)


@pytest.fixture(scope="module")
def page(dataset: Path) -> Path:
    output = dataset.parent / "page.html"
    write_preview(str(dataset), output)
    return output


def facts(page: Path) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    assert found
    return json.loads(found[1])


def test_the_page_tells_what_is_in_the_data_set(page: Path, manifest: Manifest) -> None:
    data = facts(page)
    assert (data["numWritten"], data["numFailed"], data["numSkipped"]) == (12, 1, 0)
    assert data["numFrames"] == sum(manifest.videos.column("num_frames"))
    assert data["digest"] == manifest.digest[:12]
    assert data["split"] == "mine"
    assert [entry["name"] for entry in data["classes"]] == list(manifest.header.classes)
    assert [sum(entry["counts"]) for entry in data["classes"]] == [4, 4, 4, 0]
    assert Counter(video["role"] for video in data["videos"]) == {"labelled": 4, "unlabelled": 5, "test": 3}
    assert sum(data["lengths"]["counts"]) == 12
    assert data["failures"]["total"] == 1
    assert data["failures"]["rows"][0]["path"] == "Z & <b>/a <i>'\".avi"


def test_the_page_needs_nothing_else(page: Path) -> None:
    text = page.read_text()
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?!#)", text)
    assert "default-src 'none'" in text
    assert "<b>" not in text.split('id="data">', 1)[1].split("</script>", 1)[0]
    assert set(re.findall(r"https?://[^\s\"'<)]+", text)) == {"http://www.w3.org/2000/svg"}


def test_pictures_are_those_of_the_frames(page: Path, manifest: Manifest) -> None:
    """The sheets against frames cut out of the shard: same order, RGB and TG not swapped."""
    from manifests.sample import decode_offsets

    row = next(row for row in manifest.videos if row.status == "written")
    video = next(video for video in facts(page)["videos"] if video["key"] == row.key)
    shard = (Path(manifest.root) / row.shard).read_bytes()
    for kind, sheet in (("rgb", video["strip"][0]), ("tg", video["strip"][1])):
        tiles = cv2.imdecode(np.frombuffer(base64.b64decode(sheet), np.uint8), cv2.IMREAD_COLOR)
        assert tiles is not None
        assert tiles.shape[1] % video["tiles"] == 0
        wide = tiles.shape[1] // video["tiles"]
        start, size = getattr(row.members, f"{kind}_index_offset"), getattr(row.members, f"{kind}_index_bytes")
        offsets = decode_offsets(shard[start : start + size]).astype(int)
        first = getattr(row.members, f"{kind}_offset")
        for place, number in enumerate(video["frames"]):
            jpeg = shard[first + offsets[number] : first + offsets[number + 1]]
            frame = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
            assert frame is not None
            expected = cv2.resize(frame, (wide, tiles.shape[0]), interpolation=cv2.INTER_AREA).astype(int)
            assert np.abs(tiles[:, place * wide : (place + 1) * wide].astype(int) - expected).mean() < 12


def test_same_data_same_page(dataset: Path, page: Path, tmp_path: Path) -> None:
    write_preview(str(dataset), tmp_path / "again.html", threads=3)
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()


def test_few_videos_are_spread_over_classes_and_parts(manifest: Manifest) -> None:
    names = manifest.videos.column("class_name")
    roles = ["test" if place % 4 == 0 else "train" for place in range(len(names))]
    chosen = choose_videos(manifest, roles, (), 6)
    assert chosen == sorted(set(chosen))
    assert sorted(Counter(names[place] for place in chosen).values()) == [2, 2, 2]
    assert {roles[place] for place in chosen} == {"test", "train"}
    assert len(choose_videos(manifest, roles, (), 100)) == 12
    assert len(choose_videos(manifest, roles, (), 2)) == 2


def test_named_videos(dataset: Path, manifest: Manifest, tmp_path: Path) -> None:
    keys = [row.key for row in manifest.videos if row.status == "written"][3:6:2]
    (tmp_path / "list.txt").write_text("\n".join(keys) + "\n")
    run = CliRunner().invoke(
        main,
        [
            "preview",
            str(dataset),
            "--output",
            str(tmp_path / "p.html"),
            "--keys",
            f"@{tmp_path / 'list.txt'}",
            "--json",
        ],
    )
    assert run.exit_code == 0, run.output
    assert json.loads(run.stdout)["num_shown"] == 2
    assert [video["key"] for video in facts(tmp_path / "p.html")["videos"]] == keys
    for options in (["--keys", "No/such"], ["--split", "none"], ["--keys", ","], ["--output", str(tmp_path)]):
        run = CliRunner().invoke(main, ["preview", str(dataset), "--output", str(tmp_path / "q.html"), *options])
        assert run.exit_code == 2, run.output
    assert not (tmp_path / "q.html").exists()
    with pytest.raises(InputError, match="keys look like"):
        write_preview(str(dataset), tmp_path / "q.html", keys=["No/such"])


def test_a_damaged_video_is_shown_as_such(dataset: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(dataset, tmp_path / "dataset"))
    (copy / "shard-000001.tar").unlink()
    run = CliRunner().invoke(main, ["preview", str(copy), "--output", str(tmp_path / "p.html"), "--json"])
    assert run.exit_code == 1
    damaged = json.loads(run.stdout)["damaged"]
    lost = [row.key for row in read_manifest(copy).videos if row.shard == "shard-000001.tar"]
    assert [entry["key"] for entry in damaged] == lost
    assert len(facts(tmp_path / "p.html")["videos"]) == 12


def test_derived_gradients_are_computed(dataset: Path, tmp_path: Path) -> None:
    videos = dataset.parent / "videos"
    extract_videos(videos, tmp_path / "out", gradient="derived")
    write_preview(str(tmp_path / "out"), tmp_path / "p.html", max_videos=3)
    for video in facts(tmp_path / "p.html")["videos"]:
        tiles = cv2.imdecode(np.frombuffer(base64.b64decode(video["clip"][1]), np.uint8), cv2.IMREAD_COLOR)
        assert tiles is not None
        assert abs(float(np.median(tiles)) - 127) < 6  # mostly no motion
    assert facts(tmp_path / "p.html")["split"] == ""


# --------------------------------------------------------------------------------------------------------- browser


@pytest.fixture
def browser(chromium: str, tmp_path: Path) -> list[str]:
    """The command of a headless Chromium."""
    switches = "--headless --no-sandbox --disable-gpu --no-first-run --hide-scrollbars --disable-background-networking"
    return [chromium, *switches.split(), "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}"]


def browse(browser: list[str], *arguments: str) -> str:
    done = subprocess.run([*browser, *arguments], capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def probed(browser: list[str], page: str, folder: Path, script: str, address: str = "") -> Any:
    """What `script` (the body of an async function) returns inside the page, after checking that nothing went wrong in it."""
    listen = """<script>window.wrong = [];
    addEventListener("error", (event) => wrong.push(String(event.message)));
    addEventListener("unhandledrejection", (event) => wrong.push(String(event.reason)));
    addEventListener("securitypolicyviolation", (event) => wrong.push("refused " + event.blockedURI));
    for (const kind of ["error", "warn"]) console[kind] = (...words) => wrong.push(words.join(" "));</script>"""
    # --dump-dom comes once the virtual time is spent: whatever the script waits for has happened then.
    probe = f"""<script>(async () => {{ {script} }})().then((said) => {{
      document.body.dataset.said = JSON.stringify({{ said, wrong }}); }});</script>"""
    text = page.replace("<head>", f"<head>{listen}", 1).replace("</body>", f"{probe}</body>")
    (folder / "probe.html").write_text(text)
    url = (folder / "probe.html").as_uri() + address
    dom = browse(browser, "--window-size=500,900", "--virtual-time-budget=20000", "--dump-dom", url)
    found = re.search(r'data-said="([^"]*)"', dom)
    assert found, "the page's script did not run to its end"
    answer = json.loads(html.unescape(found[1]))
    assert answer["wrong"] == []
    return answer["said"]


def test_browser_filters(page: Path, manifest: Manifest, browser: list[str], tmp_path: Path) -> None:
    first = manifest.header.classes[0]
    said = probed(
        browser,
        page.read_text(),
        tmp_path,
        f"""
        const said = [];
        const count = () => [...document.querySelectorAll(".video")].filter((card) => card.offsetParent).length;
        const set = (id, value) => {{ $(id).value = value; $(id).dispatchEvent(new Event("input", {{ bubbles: true }})); }};
        said.push(count(), $("shown").textContent);
        set("class", "{first}"); said.push(count(), location.hash);
        set("role", "test"); said.push(count());
        set("text", "nothing has this name"); said.push(count(), !$("empty").hidden);
        $("clear").click(); said.push(count(), location.hash);
        set("group", "g02"); said.push(count());
        $("clear").click();
        set("text", "{first.lower()} G03"); said.push(count(), $("shown").textContent);
        $("clear").click();
        document.querySelector('.class[data-class="{first}"]').click(); said.push(count());
        said.push(document.documentElement.scrollWidth <= innerWidth);
        return said;
        """,
    )
    expected = [12, "12 videos", 4, f"#class={first}", 1, 0, True, 12, "", 3, 1, "1 of 12 videos", 4, True]
    assert said == expected


def test_browser_shows_pairs_notes_and_motion(page: Path, browser: list[str], tmp_path: Path) -> None:
    text = page.read_text()
    found = re.search(r'(id="data">)(.*?)(</script>)', text, re.DOTALL)
    assert found
    data = json.loads(found[2])
    assert data["leaks"]["pairs"] == []
    assert all(video["motion"] > 0 for video in data["videos"])
    first, second, third = data["videos"][:3]
    first |= {"note": "<i>2 frames</i> lost", "twins": ["leak", "near-copy"]}
    second |= {"twins": ["leak", "near-copy"], "note": f"near-copy of {first['key']}"}
    third |= {"twins": ["same file"]}
    data["leaks"] = {
        "pairs": [[first["key"], second["key"], "near-copy", True], [third["key"], "gone", "same file", False]],
        "numPairs": {"near-copy": 1, "same file": 1}, "numLeaks": {"near-copy": 1}, "knowsCopies": True,
    }  # fmt: skip
    said = probed(
        browser,
        text[: found.start(2)] + json.dumps(data).replace("<", "\\u003c") + text[found.end(2) :],
        tmp_path,
        """
        const said = [];
        const set = (id, value) => { $(id).value = value; $(id).dispatchEvent(new Event("input", { bubbles: true })); };
        said.push($("pairs-title").textContent, $("pairs").open, document.querySelectorAll("#pair-list .video").length);
        set("twin", "leak"); said.push(visible.length, location.hash);
        set("twin", "(none)"); said.push(visible.length);
        $("clear").click();
        set("note", "(any)"); said.push(visible.length);
        set("note", "<i>2 frames</i> lost"); said.push(visible.length, $("note").querySelector("i"));
        $("clear").click();
        const bars = [...$("motion").querySelectorAll(".hit")];
        bars[0].focus();
        bars[0].dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true, cancelable: true }));
        said.push(bars.length, document.activeElement === bars[1], bars[1].getAttribute("aria-label").includes("median"));
        bars[1].dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true, cancelable: true }));
        said.push(visible.length, document.documentElement.scrollWidth <= innerWidth);
        return said;
        """,
    )
    assert said == ["1 pair in both train and test", True, 3, 2, "#twin=leak", 9, 2, 1, None, 3, True, True, 4, True]


def test_browser_opens_a_view_by_its_address(page: Path, browser: list[str], tmp_path: Path) -> None:
    said = probed(browser, page.read_text(), tmp_path, "return $('shown').textContent;", "#role=labelled")
    assert said == "4 of 12 videos"


def test_browser_opens_videos_with_the_keyboard(page: Path, browser: list[str], tmp_path: Path) -> None:
    said = probed(
        browser,
        page.read_text(),
        tmp_path,
        """
        const said = [];
        const press = (key) => document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
        const cards = [...document.querySelectorAll(".video")];
        press("/"); said.push(document.activeElement.id);
        cards[0].focus(); press("ArrowRight"); said.push(document.activeElement === cards[1]);
        document.activeElement.click();
        said.push($("detail").open, $("detail-title").textContent === data.videos[1].key);
        press("ArrowRight"); said.push($("detail-title").textContent === data.videos[2].key);
        press("ArrowLeft"); press("ArrowLeft"); press("ArrowLeft");
        said.push($("detail-title").textContent === data.videos[data.videos.length - 1].key);
        const pair = $("detail-body").querySelector(".tile.rgb");
        const image = new Image();
        const url = getComputedStyle(pair).backgroundImage.slice(5, -2);
        await new Promise((done, failed) => { image.onload = done; image.onerror = failed; image.src = url; });
        said.push(image.width / image.height > 10, getComputedStyle(pair).animationName);
        const closed = new Promise((done) => $("detail").addEventListener("close", () => setTimeout(done)));
        $("close").click();
        await closed;
        said.push($("detail").open, document.activeElement === cards[cards.length - 1]);
        $("play").click();
        while (document.querySelector(".video.playing")) await new Promise((done) => setTimeout(done, 20));
        said.push($("play").textContent, document.querySelectorAll(".video.playing").length);
        said.push($("failures").hidden, $("failures").querySelector("td").textContent);
        return said;
        """,
    )
    path = "Z & <b>/a <i>'\".avi"
    assert said == ["text", True, True, True, True, True, True, "clip", False, True, "Play", 0, False, path]


def test_browser_bears_a_thousand_videos(page: Path, browser: list[str], tmp_path: Path) -> None:
    """Pictures of what is far from the screen are not made, so a thousand videos cost their words only (benchmarks/preview.py
    tells what that takes)."""
    text = page.read_text()
    found = re.search(r'(id="data">)(.*?)(</script>)', text, re.DOTALL)
    assert found
    data = json.loads(found[2])
    data["videos"] = [
        {**data["videos"][number % 12], "key": f"{data['videos'][number % 12]['key']}_{number}"}
        for number in range(1000)
    ]
    many = text[: found.start(2)] + json.dumps(data).replace("<", "\\u003c") + text[found.end(2) :]
    cards, kept, pictures = probed(
        browser,
        many,
        tmp_path,
        """
        await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 300)));
        const pictures = loaded.size;
        $("role").value = "test"; apply(); document.body.offsetHeight;
        return [cards.size, visible.length, pictures];
        """,
    )
    assert (cards, kept) == (1000, 250)
    assert pictures < 60


def test_browser_light_and_dark(page: Path, browser: list[str], tmp_path: Path) -> None:
    brightness = {}
    for name, scheme in (("dark", 0), ("light", 1)):
        shot = tmp_path / f"{name}.png"
        switches = [f"--blink-settings=preferredColorScheme={scheme}", "--window-size=1200,700"]
        browse(browser, *switches, f"--screenshot={shot}", page.as_uri())
        picture = cv2.imread(str(shot))
        assert picture is not None
        assert picture.std() > 8  # something is drawn
        brightness[name] = float(np.median(picture))
    assert brightness["dark"] < 60
    assert brightness["light"] > 200
