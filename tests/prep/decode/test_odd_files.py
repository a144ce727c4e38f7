"""79 odd files of other projects' tests (`../shared/videos/odd2`): the frames of the ffmpeg program, or one reason.

The long test compares the table with the program itself, and extracts all files as a user would.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import imageio_ffmpeg
import pytest

from manifests.manifest_io import read_manifest
from manifests.records import WRITTEN
from tests.prep.support import extract_videos
from tests.reliability import Reliability
from tgprep.decode.frames import DecodeError
from tgprep.decode.open import open_video
from tgprep.scan.files import VIDEO_EXTENSIONS, extension_of

# Name: number of frames, and number of packets that do not decode.
FRAMES = {
    "fate__av1_av1-1-b8-03-sizeup.mp4": (20, 0),
    "fate__av1_av1-1-b8-22-svc-L2T2.mp4": (8, 0),
    "fate__cinepak_catfight-cvid-pal8-partial.mp4": (56, 0),
    "fate__dfa_0000.mp4": (25, 1),
    "fate__g2m_g2m4.mp4": (28, 0),
    "fate__h264_amve.mp4": (24, 0),
    "fate__h264_brokensps.mp4": (79, 0),
    "fate__h264_displaymatrix.mp4": (33, 1),
    "fate__h264_empty_edit_5s.mp4": (100, 0),
    "fate__h264_fake-gp-media-with-real-gpmf.mp4": (250, 0),
    "fate__h264_interlaced_crop.mp4": (126, 0),
    "fate__h264_mov-1elist-ends-last-bframe.mp4": (47, 0),
    "fate__h264_mov-3elist.mp4": (48, 0),
    "fate__h264_sample-in-issue-505.mp4": (105, 0),
    "fate__h264_wwwq_cut.mp4": (119, 1),
    "fate__hevc_dovi-p7.mp4": (10, 0),
    "fate__hevc_extradata-reload-multi-stsd.mp4": (4, 0),
    "fate__mpeg2video_PVA_test-partial.mp4": (37, 1),
    "fate__mpeg2video_pmtchange.mp4": (0, 4),
    "fate__mpeg2video_roundup997.mp4": (5, 0),
    "fate__mpeg4_cropdetect1.mp4": (10, 0),
    "fate__mpeg4_demo.mp4": (45, 1),
    "fate__mpeg4_extended_atom_size_probe.mp4": (1, 0),
    "fate__msmpeg4v1_mpg4.avi": (50, 0),
    "fate__prores_Sequence_1-Apple_ProRes_422.mp4": (2, 0),
    "fate__prores_Sequence_1-Apple_ProRes_with_Alpha.mp4": (2, 0),
    "fate__prores_prores4444_with_transparency.mp4": (1, 0),
    "fate__theora_offset_test.mp4": (10, 0),
    "fate__vc1_vc1-wmapro.mp4": (120, 0),
    "fate__vp9_vp90-2-05-resize.mp4": (10, 0),
    "fate__vp9_vp90-2-10-show-existing-frame.mp4": (13, 0),
    "fate__vp9_vp90-2-16-intra-only.mp4": (7, 0),
    "fate__wmv3_wmv_drm.wmv": (115, 15),
    "jcodec__AVCClipCatTest_cat_key_clip.mp4": (222, 0),
    "jcodec__h264_test_cat1.h264": (46, 0),
    "jcodec__metaedit_keyed.mp4": (0, 0),
    "jcodec__mxf_timecode.mxf": (0, 0),
    "jcodec__resources_frame0123.m4v": (5, 0),
    "media__avi_sample-unflagged-audio-keyframes.avi": (96, 0),
    "media__avi_sample-with-large-length.avi": (58, 0),
    "media__flv_sample.flv": (30, 0),
    "media__mkv_sample_av1.mkv": (30, 0),
    "media__mkv_sample_with_htc_rotation_track_name.mkv": (30, 0),
    "media__mkv_sample_with_vobsub.mkv": (30, 0),
    "media__mp4_bbb_800x640_768kbps_30fps_avc_2b_firstpts_10_sec.mp4": (120, 0),
    "media__mp4_bt601.mov": (30, 0),
    "media__mp4_sample_edit_list_only_preroll_sync_sample.mp4": (16, 0),
    "media__mp4_sample_mdat_too_long.mp4": (30, 0),
    "media__mp4_sample_no_bframes.mp4": (30, 0),
    "media__mp4_sample_portrait.mp4": (30, 0),
    "media__mp4_sample_rotate_and_reflect.mp4": (30, 0),
    "media__mp4_sample_sef_super_slow_motion.mp4": (435, 0),
    "media__mp4_sample_srgb.mp4": (30, 0),
    "media__mp4_sample_with_av1c.mp4": (30, 0),
    "media__mp4_sample_with_chapters.mp4": (30, 0),
    "media__mp4_sample_with_colr_mdcv_and_clli.mp4": (60, 0),
    "media__mp4_sample_with_invalid_nalu.mp4": (29, 1),
    "media__multi-segment-with-emsg1_video.mp4": (30, 0),
    "media__ts_sample_h264_iframes_only.ts": (30, 0),
    "media__ts_sample_h264_no_access_unit_delimiters.ts": (3, 0),
    "media__ts_sample_h265_rps_pred.ts": (16, 0),
    "media__ts_sample_with_sdt.ts": (0, 0),
    "media__vp9_invalid-bitstream.webm": (0, 51),
    "moviepy__media_no_duration.webm": (74, 0),
    "mp4ff__testdata_4pics.264": (4, 0),
    "mp4ff__testdata_av1.ivf": (25, 0),
    "mp4ff__testdata_hevc.265": (50, 0),
    "mp4parse-rust__tests_no_timescale.mp4": (170, 12),
    "mp4parse-rust__tests_test_case_1185230.mp4": (0, 3),
    "mp4parse-rust__tests_video_rotation_90.mp4": (1, 0),
    "mp4parse-rust__tests_zero_empty_stsc.mp4": (0, 2),
    "mp4parser__resources_count.h264": (245, 0),
}
REASONS = {
    "fate__h264_mov-3elist-encrypted.mp4": "its video is encrypted",
    "media__drm_sample_fragmented_clearkey.mp4": "cannot be opened as a video: Invalid data found when processing input",
    "media__mkv_full_blocks.mkv": "holds no video stream (only: subtitle)",
    "media__mp4_sample_fragmented_sgpd_v2.mp4": "its video is encrypted",
    "media__mp4_sample_malformed_free_box.mp4": "cannot be opened as a video: Invalid data found when processing input",
    "mp4ff__testdata_cbcs.mp4": "its video is encrypted",
    "mp4ff__testdata_prog_8s_enc_dashinit.mp4": "its video is encrypted",
}
SLOW = {"media__mp4_sample_with_colr_mdcv_and_clli.mp4", "moviepy__media_no_duration.webm"}  # left to the long test
TROUBLE = {name for name, (frames, _) in FRAMES.items() if frames < 2}


def folder_of(shared: Path) -> Path:
    return shared / "videos" / "odd2"


def test_every_file_has_its_line(shared: Path) -> None:
    names = {path.name for path in folder_of(shared).iterdir()} - {"MANIFEST.tsv"}
    assert names == FRAMES.keys() | REASONS.keys()
    assert len(names) == 79
    assert {extension_of(name) for name in names} <= VIDEO_EXTENSIONS  # raw streams, too, are videos


@pytest.mark.parametrize("name", [name for name in FRAMES if name not in SLOW])
def test_a_file_gives_all_frames_and_says_what_is_lost(shared: Path, name: str) -> None:
    path = folder_of(shared) / name
    video = open_video(path, decoder="pyav", space="ycbcr420", short_side=0, as_coded=True)
    count = sum(1 for _ in video.frames)
    assert (count, video.num_damaged_packets) == FRAMES[name]


@pytest.mark.parametrize("name", REASONS)
def test_a_file_that_is_no_readable_video_has_one_reason(shared: Path, name: str) -> None:
    with pytest.raises(DecodeError, match=f"^{re.escape(REASONS[name])}$"):
        list(open_video(folder_of(shared) / name, decoder="pyav", space="rgb", short_side=0).frames)


def frames_of_program(path: Path) -> int:
    """Frames of the first video stream that the ffmpeg program decodes."""
    words = ["-v", "error", "-stats", "-i", f"file:{path}", "-map", "0:v:0", "-fps_mode", "passthrough"]
    program = [imageio_ffmpeg.get_ffmpeg_exe(), *words, "-threads", "1", "-f", "null", "-"]
    done = subprocess.run(program, capture_output=True, text=True, errors="replace", timeout=60)
    shown: list[str] = re.findall(r"frame=\s*(\d+)", done.stderr)
    return int(shown[-1]) if shown else 0


@pytest.mark.long
def test_all_files_against_the_program_and_as_a_data_set(
    shared: Path, tmp_path: Path, reliability: Reliability
) -> None:
    """Encrypted files are the one difference: the program shows noise."""
    for name, (frames, _) in FRAMES.items():
        assert frames_of_program(folder_of(shared) / name) == frames, name
    for path in folder_of(shared).iterdir():
        if path.suffix != ".tsv":
            (tmp_path / "videos" / path.stem).mkdir(parents=True)
            shutil.copy(path, tmp_path / "videos" / path.stem)
    extract_videos(tmp_path / "videos", tmp_path / "out")
    rows = read_manifest(tmp_path / "out").videos
    assert len(rows) == 79
    for row in rows:
        name = Path(row.path).name
        if row.status == WRITTEN:
            assert row.num_frames == FRAMES[name][0], name
        else:
            assert name in REASONS or name in TROUBLE, row
            assert row.error
    reliability.record(
        "Extraction",
        "odd files of other projects' tests (cut, encrypted, raw, changing size, without pictures), against the ffmpeg program",
        num_files=len(rows),
        num_written=sum(row.status == WRITTEN for row in rows),
        num_with_one_reason=sum(row.status != WRITTEN for row in rows),
        differing_frame_counts=0,
    )
