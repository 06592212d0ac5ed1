"""Proves: regions are drawn as their probabilities say, and those of a patch are known after augmentation."""

from itertools import product

import numpy as np
import pytest
import torch
from batchgenerators.dataloading.nondet_multi_threaded_augmenter import NonDetMultiThreadedAugmenter
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.spatial.mirroring import MirrorTransform
from batchgeneratorsv2.transforms.spatial.rot90 import Rot90Transform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform, Convert3DTo2DTransform
from nnunetv2.training.dataloading.data_loader import nnUNetDataLoader
from scipy.stats import chisquare
from support.cases_in_memory import Cases, make_loader

from nnunet_plugins.errors import UserError
from nnunet_plugins.trainers.base import seed_everything
from nnunet_plugins.trainers.data.region_sampling import traced

ANNOTATED = (-1, 0, 1, 2)


# ---- drawing ---------------------------------------------------------------------------------------------------------


def test_drawn_centers_follow_the_probabilities(tmp_path):
    dataset = Cases({"a": np.zeros((20, 70, 90), int), "b": np.zeros((1, 40, 40), int)})
    rng = np.random.default_rng(0)
    probabilities = rng.random(30 + 9)
    probabilities[[3, 7]] = 0
    loader = make_loader(dataset, (32, 32, 32), tmp_path, probabilities=probabilities)
    case = loader.cases["a"]
    assert case.grid == (1, 5, 6)
    loader.get_indices()
    seed_everything(0)
    centers = np.array([loader.draw_center(case) for _ in range(10_000)]).T
    drawn = np.bincount(case.region_of(centers), minlength=30)
    assert drawn[[3, 7]].tolist() == [0, 0]
    likely = probabilities[:30] > 0
    expected = 10_000 * probabilities[:30] / probabilities[:30].sum()
    assert chisquare(drawn[likely], expected[likely]).pvalue > 0.01
    within = centers[2, case.region_of(centers) == 6]  # region (0, 1, 0): columns 0 .. 14
    assert chisquare(np.bincount(within, minlength=15)).pvalue > 0.01


@pytest.mark.parametrize("shape", [(50, 60, 70), (10, 20, 90), (8, 9, 10)], ids=["larger", "mixed", "smaller"])
def test_patches_hold_their_centers_and_stay_within_nnunets_limits(tmp_path, shape):
    loaded, final = (24, 24, 24), (16, 20, 16)
    dataset = Cases({"a": np.zeros(shape, int)})
    loader = make_loader(dataset, loaded, tmp_path, final_patch_size=final)
    centers, corners, stock_corners = [], [], []
    draw = loader.draw_center
    loader.draw_center = lambda *args: centers.append(draw(*args)) or centers[-1]
    seed_everything(0)
    for _ in range(300):
        loader.get_indices()
        lower, upper = loader.get_bbox(np.array(shape), True, None)
        assert np.array_equal(np.subtract(upper, lower), loaded)
        corners.append(lower)
        stock_corners.append(nnUNetDataLoader.get_bbox(loader, np.array(shape), False, None)[0])
    assert (np.array(corners) <= centers).all() and (centers < np.array(corners) + loaded).all()
    padding = np.maximum(np.array(loaded) - final, np.array(loaded) - shape)
    lowest, highest = -padding // 2, shape + padding // 2 + padding % 2 - loaded
    for drawn in (corners, stock_corners):
        assert (np.min(drawn, 0) >= lowest).all() and (np.max(drawn, 0) <= highest).all()


def test_slices_of_volumes_are_drawn_from_their_regions(tmp_path):
    dataset = Cases({"a": np.zeros((48, 64, 64), int)})
    probabilities = np.zeros((48, 4, 4))
    probabilities[20, 2, 3] = 1
    loader = make_loader(dataset, (32, 32), tmp_path, probabilities=probabilities.ravel(), batch_size=40)
    batch = next(loader)
    assert batch["data"].shape == (40, 3, 32, 32)
    assert (batch["data"][:, 0] - 1 == 20).all()
    # the patch is 32 x 32, one cell, whose centre is within half a patch of the drawn region
    assert set(batch["regions"].unique().tolist()) <= {
        16 * 20 + 4 * row + column for row in (2, 3) for column in (2, 3)
    }


def test_centers_are_annotated_where_the_dataset_has_an_ignore_label(tmp_path):
    annotated = np.array([[0, 0, row, column] for row, column in ((3, 4), (20, 5), (21, 6))])
    locations = {ANNOTATED: annotated, 1: annotated[:1]}
    dataset = Cases({"a": np.zeros((1, 32, 32), int)}, locations)
    loader = make_loader(dataset, (16, 16), tmp_path, probabilities=np.eye(16)[8], ignore=True)
    loader.annotated_classes_key = ANNOTATED
    loader.get_indices()
    centers = {tuple(loader.draw_center(loader.cases["a"], locations)) for _ in range(50)}
    assert centers == {(0, 20, 5), (0, 21, 6)}
    rows = torch.cat([next(loader)["data"][:, 1, 8, 8] for _ in range(10)])  # of the patch's centre, the first is 1
    assert set((rows - 1).tolist()) <= {20, 21, 24 - 8}  # or moved into the image


def test_regions_are_those_of_the_patches_own_case(tmp_path):
    dataset = Cases({"a": np.zeros((1, 64, 64), int), "b": np.zeros((1, 48, 32), int), "c": np.zeros((1, 20, 20), int)})
    loader = make_loader(dataset, (16, 16), tmp_path, batch_size=8)
    for _ in range(10):
        batch = next(loader)
        for key, image, region in zip(batch["keys"], batch["data"], batch["regions"][:, 0], strict=True):
            case = loader.cases[key]
            center = image[:, 8, 8].long().numpy() - 1
            assert case.regions.start <= region < case.regions.stop
            assert case.region_of(center) == region


def test_workers_follow_the_trainer_while_they_run(tmp_path):
    dataset = Cases({"a": np.zeros((1, 64, 64), int)})
    first, last = np.eye(64)[[0, 63]]
    loader = make_loader(dataset, (16, 16), tmp_path, probabilities=first, batch_size=4, patch_grid=(1, 1))
    augmenter = NonDetMultiThreadedAugmenter(loader, None, 2, num_cached=2, seeds=None, pin_memory=False)
    try:
        assert (next(augmenter)["data"][:, 1:].amax() - 1) < 24
        np.load(tmp_path / "probabilities.npy", mmap_mode="r+")[:] = last
        batches = [next(augmenter)["data"] for _ in range(20)]
    finally:
        augmenter._finish()
    assert (batches[-1][:, 1:].amin() - 1) >= 40


# ---- tracing ---------------------------------------------------------------------------------------------------------


def geometry(patch_size, dummy_2d=False, kind="spatial"):
    """nnU-Net's transforms that move voxels, with all that they can do."""
    dimensions = len(patch_size) - dummy_2d
    spatial = SpatialTransform(
        patch_size[-dimensions:], 0, random_crop=False, p_rotation=0.6, p_scaling=0.6, scaling=(0.7, 1.4),
        rotation=(-0.6, 0.6), border_mode_seg="constant", padding_value_seg=-1,
    )  # fmt: skip
    mirror = MirrorTransform(allowed_axes=tuple(range(len(patch_size))))
    if kind == "none":
        return ComposeTransforms([mirror])
    if kind == "rotated first":
        return ComposeTransforms([Rot90Transform(1, allowed_axes=set(range(dimensions))), spatial, mirror])
    if dummy_2d:
        return ComposeTransforms([Convert3DTo2DTransform(), spatial, Convert2DTo3DTransform(), mirror])
    return ComposeTransforms([spatial, mirror])


@pytest.mark.parametrize(
    ("patch_size", "loaded", "shape", "options"),
    [
        ((48, 64), (72, 72), (1, 80, 90), {}),
        ((48, 64), (72, 72), (40, 80, 90), {}),
        ((32, 48, 32), (48, 64, 48), (60, 80, 70), {}),
        ((32, 48, 32), (48, 64, 48), (20, 30, 70), {}),
        ((20, 48, 32), (20, 64, 48), (30, 80, 70), {"dummy_2d": True}),
        ((48, 48), (72, 72), (1, 80, 90), {"kind": "rotated first"}),
        ((48, 64), (48, 64), (1, 80, 90), {"kind": "none"}),
    ],
    ids=["images", "slices", "volumes", "small volumes", "2D augmentation of volumes", "rotated first", "no spatial"],
)
def test_the_regions_that_a_patch_shows_are_known_after_augmentation(tmp_path, patch_size, loaded, shape, options):
    """The image shows where its voxels come from: its channels are their coordinates."""
    grid = (2, 3, 2)[-len(patch_size) :]
    dataset = Cases({"a": np.zeros(shape, int)})
    transforms = geometry(patch_size, **options)
    loader = make_loader(
        dataset, loaded, tmp_path, final_patch_size=patch_size, patch_grid=grid, transforms=transforms, batch_size=20
    )
    assert (loader.traced is None) == ("kind" in options)
    seed_everything(0)
    batch = next(loader)
    centers = [
        [(2 * i + 1) * length // (2 * cells) for i in range(cells)]
        for length, cells in zip(patch_size, grid, strict=True)
    ]
    known, case = 0, loader.cases["a"]
    for image, regions in zip(batch["data"], batch["regions"], strict=True):
        for position, region in zip(product(*centers), regions.tolist(), strict=True):
            neighbourhood = image[:, *(slice(max(i - 2, 0), i + 3) for i in position)].flatten(1)
            if neighbourhood.eq(0).all():  # far outside the case
                assert region == -1
            if neighbourhood.prod(0).eq(0).any():  # at its border, where zeros are mixed in
                continue
            voxels = neighbourhood.round().long().numpy() - 1
            around = set(case.region_of(voxels).tolist())
            assert region in around
            known += len(around) == 1
    assert known > 20
    assert batch["regions"].min() >= -1


def test_padding_belongs_to_no_region(tmp_path):
    dataset = Cases({"a": np.zeros((1, 16, 16), int)})
    loader = make_loader(
        dataset, (96, 96), tmp_path, final_patch_size=(64, 64), patch_grid=(4, 4), transforms=geometry((64, 64))
    )
    regions = torch.cat([next(loader)["regions"] for _ in range(10)])
    outer = [0, 3, 12, 15]
    assert (regions[:, outer] == -1).all()


@pytest.mark.parametrize("dummy_2d", [False, True])
@pytest.mark.parametrize("mirrored", [False, True])
def test_traced_origins_equal_transformed_coordinates(dummy_2d, mirrored):
    patch_size, loaded, grid = (16, 32, 32), (16 if dummy_2d else 24, 48, 48), (2, 4, 4)
    plain = geometry(patch_size, dummy_2d)
    if not mirrored:
        plain = ComposeTransforms(plain.transforms[:-1])
    tolerance = 1.5 if mirrored else 1e-3  # mirrored, the centre of a cell of even length lies beside
    fast = traced(plain, grid)
    coordinates = torch.stack(torch.meshgrid(*(torch.arange(1.0, n + 1) for n in loaded), indexing="ij"))
    centers = torch.meshgrid(
        *((2 * torch.arange(n) + 1) * s // (2 * n) for s, n in zip(patch_size, grid, strict=True)), indexing="ij"
    )
    for seed in range(20):
        origins = []
        for transforms, extra in ((plain, {"regression_target": coordinates}), (fast, {})):
            seed_everything(seed)
            sample = {"image": torch.zeros(1, *loaded), "segmentation": torch.zeros(1, *loaded, dtype=torch.int16)}
            origins.append(transforms(**sample, **extra)["regression_target"])
        full, lattice = origins[0][:, *centers], origins[1]
        assert full.shape == lattice.shape
        inside = (lattice > 2).all(0) & (lattice < torch.tensor(loaded).view(3, 1, 1, 1) - 1).all(0)
        assert ((full - lattice).abs().amax(0)[inside] <= tolerance).all()


def test_a_transform_that_drops_the_origins_is_refused(tmp_path):
    class Forgetful(BasicTransform):
        def _apply_to_image(self, img, **params):
            return img

        _apply_to_segmentation = _apply_to_image

    loader = make_loader(
        Cases({"a": np.zeros((1, 64, 64), int)}), (32, 32), tmp_path, transforms=ComposeTransforms([Forgetful()])
    )
    with pytest.raises(UserError, match="drops the regression target"):
        next(loader)
