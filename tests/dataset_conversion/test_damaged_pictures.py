"""Proves: a damaged picture is read or refused in one sentence, and a full disk is an error."""

import os
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from support.property_inputs import noise, seeds, temporary_folder

from nnunet_plugins.dataset_conversion import pictures
from nnunet_plugins.dataset_conversion.readers import read_mask, read_picture
from nnunet_plugins.errors import UserError


@given(st.sampled_from([".png", ".jpg", ".bmp", ".tif", ".gif"]), st.integers(0, 10**6), st.integers(0, 255), seeds)
def test_damaged_picture_is_read_or_refused_in_one_sentence(ending, position, value, seed):
    """Any exception other than UserError would be a traceback."""
    with temporary_folder() as folder:
        path = folder / f"x{ending}"
        array = noise(seed, (9, 8, 3))
        Image.fromarray(array if ending != ".gif" else array[..., 0]).save(path)
        data = bytearray(path.read_bytes())
        data[position % min(len(data), 120)] = value
        data[(position * 7919) % len(data)] ^= value
        for damaged in (data, data[: position % len(data)]):
            path.write_bytes(damaged)
            for read in (read_picture, lambda path: read_mask((path,), (9, 8))):
                try:
                    read(path)
                except UserError as error:
                    assert str(path) in str(error) and "\n" not in str(error)


@pytest.mark.parametrize("error", [EOFError(), OSError(), SyntaxError(), ValueError("")])
def test_reader_that_does_not_say_what_is_wrong_is_a_sentence_too(tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    (tmp_path / "x.png").write_bytes(b"x")
    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(UserError, match="cannot be read"):
        read_picture(tmp_path / "x.png")


def test_picture_that_would_fill_the_memory_is_refused(tmp_path):
    """A PNG of some kilobytes that declares 50 000 x 50 000 pixels."""
    Image.new("1", (100, 100)).save(tmp_path / "x.png")
    data = bytearray((tmp_path / "x.png").read_bytes())
    data[16:24] = (50_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (tmp_path / "x.png").write_bytes(data)
    with pytest.raises(UserError, match=r"is too large for Pillow, .*: cut it into tiles"):
        read_picture(tmp_path / "x.png")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
def test_picture_that_does_not_fit_on_the_disk_is_an_error(tmp_path):
    (tmp_path / "x.png").symlink_to("/dev/full")
    with pytest.raises(OSError):
        pictures.write_image(noise(0, (5, 5)), tmp_path / "x.png")
