"""Local files are opened whatever their name, and a file that names other files or servers opens none of them."""

from __future__ import annotations

import http.server
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.train.decode_children import ViewJob, read_all
from manifests.manifest_io import read_manifest
from tests.extraction import call
from tests.prep.support import moving_square, write_video
from tgprep.decode.frames import DecodeError
from tgprep.decode.open import open_video
from tgtrain.data.clip import ClipSettings

NAMES = [
    "12:30.avi", "2024-01-01T12:30:00.avi", "file:/x.avi", "http:/x/y.avi", "concat:a.avi|b.avi", "pipe:0.avi", "-x.avi",
    "a%02d.avi", "*?[x]{a,b}.avi", "data:,x.avi", "subfile,,start,0,end,9,,:a.avi", "crypto+file:a.avi", "async:cache:a.avi",
    "line\nbreak.avi", " space .avi", "tab\t'quote'\"$(x).avi", "ü日本.avi", "a.b:c%d",
]  # fmt: skip


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "a.avi", moving_square(5), **{"q:v": "3"})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, so that relative names begin with the odd part."""
    (tmp_path / "videos").mkdir()
    monkeypatch.chdir(tmp_path / "videos")
    return tmp_path / "videos"


def put(video: Path, name: str) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(video, path)
    return path


@pytest.mark.parametrize("decoder", ["pyav", "opencv", "decord"])
@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_opened_whatever_its_name(folder: Path, video: Path, name: str, decoder: str) -> None:
    opened = open_video(put(video, name), decoder=decoder, space="rgb", short_side=0)
    assert sum(1 for _ in opened.frames) == 5
    opened.close()


def test_a_pattern_is_one_file(folder: Path, tmp_path: Path) -> None:
    """`a%02d.gif` beside `a01.gif` is itself, not the sequence."""
    for name, count in (("a%02d.gif", 4), ("a01.gif", 2), ("a02.gif", 2)):
        write_video(tmp_path / "b.gif", moving_square(count), codec="gif", pixel_format="rgb8").rename(name)
    for decoder in ("pyav", "opencv"):
        opened = open_video(Path("a%02d.gif"), decoder=decoder, space="rgb", short_side=0)
        assert sum(1 for _ in opened.frames) == 4


def test_extract_takes_all_names(folder: Path, video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"class:{number % 2}/{name}" for number, name in enumerate(NAMES) if name.endswith(".avi")]
    for name in names:
        put(video, name)

    def extracted(videos: str, out: str) -> list[tuple[str, int]]:
        done = call("extract", videos, out, "--threads", "1", "--dataset", "folder")
        assert done.returncode == 0, done.stdout + done.stderr
        return [(row.status, row.num_frames) for row in read_manifest(Path(out)).videos]

    assert extracted(".", f"{tmp_path}/out:1") == [("written", 5)] * len(names)
    monkeypatch.chdir(tmp_path)
    folder.rename("rec:2024")
    assert extracted("rec:2024", "out:2") == [("written", 5)] * len(names)


def test_predict_reads_any_name(folder: Path, video: Path) -> None:
    paths = [put(video, name) for name in ("12:30.avi", "http:/x.avi", "-x%02d.avi")]
    clip = ClipSettings(clip_frames=2, interval=1, gradient="none", size=32)
    job = ViewJob(paths[0], clip, num_clips=1, num_crops=1, rgb=True, tg=False, short_side=0, decoder="pyav")
    replies = list(read_all(job, paths, 1, 60.0))
    assert [(reply.bad, reply.num_frames, len(reply.clips)) for reply in replies] == [("", 5, 1)] * 3


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """A web server on this machine, and what was asked of it."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()


LISTS = {
    "HLS": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n#EXT-X-ENDLIST\n",
    "HLS behind a byte order mark": "\ufeff#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{target}\n",
    "concat": "ffconcat version 1.0\nfile '{target}'\n",
    "SDP": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=control:{target}\n",
    "DASH": "<?xml version='1.0'?><MPD xmlns='urn:mpeg:dash:schema:mpd:2011' type='static'><Period><AdaptationSet>"
    "<Representation id='1'><BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>",
}


@pytest.mark.parametrize("kind", LISTS)
@pytest.mark.parametrize("suffix", ["mp4", "m3u8", "ts"])
def test_a_list_of_other_files_opens_none(
    folder: Path, video: Path, server: tuple[str, list[str]], kind: str, suffix: str
) -> None:
    url, asked = server
    put(video, "secret.avi")
    for target in ("secret.avi", str(folder / "secret.avi"), f"file:{folder}/secret.avi", f"{url}/a.ts"):
        path = Path(f"a.{suffix}")
        path.write_text(LISTS[kind].format(target=target), encoding="utf-8")
        for decoder in ("pyav", "opencv", "decord"):
            with pytest.raises(DecodeError, match="is a list of other files, which are not opened"):
                list(open_video(path, decoder=decoder, space="rgb", short_side=0).frames)
    assert asked == []


def test_a_list_that_is_also_a_stream_opens_none(folder: Path, video: Path, server: tuple[str, list[str]]) -> None:
    """A transport stream may begin with anything, also with a playlist."""
    url, asked = server
    stream = write_video(folder / "b.ts", moving_square(5), codec="mpeg2video")
    Path("a.mp4").write_bytes(LISTS["HLS"].format(target=f"{url}/a.ts").encode() + stream.read_bytes())
    for decoder in ("pyav", "opencv", "decord"):
        with pytest.raises(DecodeError, match="is a list of other files"):
            open_video(Path("a.mp4"), decoder=decoder, space="rgb", short_side=0)
    assert asked == []
