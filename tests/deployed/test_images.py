"""Proves: images of any supported kind are read as nnU-Net reads them, and files that cannot be used are told."""

import numpy as np
import pytest
import SimpleITK
from skimage import io

from nnunet_plugins.deployed.images import FORMATS, read_case
from nnunet_plugins.errors import UserError


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def write(path, rng, shape, spacing=None):
    pixels = rng.integers(0, 255, shape).astype(np.uint8)
    if spacing is None:
        io.imsave(path, pixels, check_contrast=False)
    else:
        image = SimpleITK.GetImageFromArray(pixels)
        image.SetSpacing(spacing)
        image.SetOrigin(tuple(range(len(spacing))))
        SimpleITK.WriteImage(image, path)
    return str(path)


KINDS = {
    "grey": ("NaturalImage2DIO", "a.png", (6, 8), None),
    "RGB": ("NaturalImage2DIO", "a.bmp", (6, 8, 3), None),
    "RGBA": ("NaturalImage2DIO", "a.tif", (6, 8, 4), None),
    "volume": ("SimpleITKIO", "a.nii.gz", (4, 6, 8), (1.5, 2.0, 5.0)),
    "slice": ("SimpleITKIO", "a.mha", (6, 8), (1.5, 2.0)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_image_and_segmentation_are_those_of_nnunet(kind, tmp_path, rng):
    from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name

    reader, name, shape, spacing = KINDS[kind]
    path = write(tmp_path / name, rng, shape, spacing)
    nnunets = recursive_find_reader_writer_by_name(reader)()
    data, properties = nnunets.read_images((path,))
    image = FORMATS[reader].read(tmp_path / name)
    assert image.data.dtype == data.dtype and np.array_equal(image.data, data)
    assert tuple(image.spacing) == tuple(properties["spacing"])

    labels = rng.integers(0, 3, data.shape[1:]).astype(np.uint8)
    FORMATS[reader].write(labels, tmp_path / f"ours_{name}", image.geometry)
    nnunets.write_seg(labels, str(tmp_path / f"theirs_{name}"), properties)
    assert (tmp_path / f"ours_{name}").read_bytes() == (tmp_path / f"theirs_{name}").read_bytes()


def test_files_that_cannot_be_used_are_refused(tmp_path, rng):
    (tmp_path / "b.png").write_bytes(b"no picture")
    grey, larger = tmp_path / "grey.png", tmp_path / "larger.png"
    write(grey, rng, (6, 8))
    write(larger, rng, (7, 8))
    with pytest.raises(UserError, match=r"b\.png cannot be read \(.+\): replace or remove it"):
        read_case("NaturalImage2DIO", [tmp_path / "b.png"], "RGB")
    with pytest.raises(UserError, match=r"grey\.png has 1 channel, but the model takes 3 \(R, G, B\): give files"):
        read_case("NaturalImage2DIO", [grey], "RGB")
    with pytest.raises(UserError, match=r"larger\.png has shape \(1, 7, 8\) .+ expected the same of all channels"):
        read_case("NaturalImage2DIO", [grey, larger], "RG")


def test_segmentation_of_channels_in_one_file_has_the_three_axes_of_space(tmp_path):
    channels = SimpleITK.JoinSeries([SimpleITK.GetImageFromArray(np.full((4, 6, 8), c, np.uint8)) for c in range(2)])
    channels.SetSpacing((1.5, 2.0, 5.0, 1.0))
    channels.SetOrigin((3.0, 4.0, 5.0, 0.0))
    SimpleITK.WriteImage(channels, tmp_path / "a_0000.nii.gz")
    image = read_case("SimpleITKIO", [tmp_path / "a_0000.nii.gz"], ["T1", "T2"])
    assert image.data.shape == (2, 4, 6, 8) and image.spacing == (5.0, 2.0, 1.5)
    FORMATS["SimpleITKIO"].write(np.ones((4, 6, 8), np.uint8), tmp_path / "out.nii.gz", image.geometry)
    written = SimpleITK.ReadImage(tmp_path / "out.nii.gz")
    assert written.GetSpacing() == (1.5, 2.0, 5.0) and written.GetOrigin() == (3.0, 4.0, 5.0)
