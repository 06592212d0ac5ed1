"""Proves: nnU-Net accepts the converted datasets, reads them as meant, and trains on our folds."""

import multiprocessing
from multiprocessing.pool import ThreadPool

import numpy as np
import pytest
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.preprocessing.normalization.map_channel_name_to_normalization import get_normalization_scheme
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets
from support import cell_datasets
from support.conversions import NAMES
from support.miniatures import FACTS

from nnunet_plugins.dataset_conversion.datasets import CONVERTERS

for_all = pytest.mark.parametrize("name", NAMES)


@pytest.fixture(autouse=True)
def threads_for_processes(monkeypatch) -> None:
    """Let nnU-Net start threads, which costs no time, where it starts processes; ``test_integrity`` starts these."""
    monkeypatch.setattr(multiprocessing.get_context("spawn"), "Pool", ThreadPool)
    monkeypatch.setattr("nnunetv2.utilities.utils.Pool", ThreadPool)


@for_all
def test_nnunet_reads_the_dataset_as_meant(name, converted):
    conversion = converted(name)
    description = conversion.description
    files = get_filenames_of_train_images_and_targets(str(conversion.dataset), description)
    assert sorted(files) == conversion.miniature.identifiers()
    for case, paths in files.items():
        sample = conversion.miniature.samples[case]
        reader = determine_reader_writer_from_dataset_json(description, paths["images"][0], verbose=False)()
        image, _ = reader.read_images(paths["images"])
        label, _ = reader.read_seg(paths["label"])
        expected = sample.image if sample.geometry else np.atleast_3d(sample.image).transpose(2, 0, 1)[:, None]
        np.testing.assert_array_equal(image, expected.reshape(len(FACTS[name].channels), *image.shape[1:]))
        np.testing.assert_array_equal(label, sample.label.reshape(label.shape))


@for_all
def test_nnunet_accepts_the_dataset(name, converted):
    verify_dataset_integrity(str(converted(name).dataset), 1)


@for_all
def test_nnunet_has_one_output_for_each_class(name, converted):
    manager = LabelManager(converted(name).description["labels"], regions_class_order=None)
    assert not manager.has_regions and not manager.has_ignore_label
    assert manager.all_labels == list(range(len(FACTS[name].labels)))
    assert manager.num_segmentation_heads == len(FACTS[name].labels)


@for_all
def test_only_hounsfield_units_are_clipped_by_nnunet(name, converted):
    schemes = {
        get_normalization_scheme(channel).__name__ for channel in converted(name).description["channel_names"].values()
    }
    assert schemes == {"CTNormalization" if name in ("synapse", "lits17") else "ZScoreNormalization"}


@pytest.mark.parametrize(("name", "configuration"), [("glas", "2d"), ("promise12", "3d_fullres")])
def test_nnunet_trains_on_our_folds(name, configuration, miniature, convert):
    from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiments, preprocess

    conversion = convert(miniature(name))
    dataset_id = CONVERTERS[name].dataset_id
    cell_datasets.extract_fingerprint(dataset_id)
    plan_experiments([dataset_id])
    preprocess([dataset_id], configurations=[configuration], num_processes=(1,))
    before = conversion.splits.read_bytes()
    for number, fold in enumerate(conversion.folds):
        trainer = cell_datasets.make_trainer("nnUNetTrainer", dataset_id, configuration=configuration, fold=number)
        assert trainer.do_split() == (fold["train"], fold["val"])
    assert conversion.splits.read_bytes() == before
    dataset = trainer.dataset_class(trainer.preprocessed_dataset_folder)
    assert sorted(dataset.identifiers) == conversion.miniature.identifiers()
    for case in dataset.identifiers:
        _, segmentation, *_ = dataset.load_case(case)
        assert set(np.unique(segmentation[:])) <= {-1, 0, 1}
