"""Files of DICOM, written with pydicom and highdicom."""

from pathlib import Path
from typing import Any

import numpy as np
from highdicom import AlgorithmIdentificationSequence
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.sr.codedict import codes
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

SPACING = 0.5, 0.7, 2.5
ORIGIN = -30.0, 20.0, 100.0
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def save_slice(path: Path, values: np.ndarray, position: tuple[float, ...] = ORIGIN, **tags: Any) -> Path:
    """Write ``(H, W)`` of 16 bits; ``tags`` replace elements, and None removes one."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = CTImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    elements: dict[str, Any] = {
        "SeriesInstanceUID": "1.2.3",
        "StudyInstanceUID": "1.2",
        "FrameOfReferenceUID": "1.9",
        "Modality": "CT",
        "PatientID": "p",
        "PatientName": "p",
        "PatientBirthDate": "",
        "PatientSex": "",
        "StudyID": "",
        "StudyDate": "",
        "StudyTime": "",
        "AccessionNumber": "",
        "ReferringPhysicianName": "",
        "Rows": values.shape[0],
        "Columns": values.shape[1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "PixelSpacing": [SPACING[1], SPACING[0]],
        "ImagePositionPatient": list(position),
        "ImageOrientationPatient": list(AXIAL),
        "SliceThickness": SPACING[2],
        "InstanceNumber": 1,
    } | tags
    for name, value in elements.items():
        if value is not None:
            setattr(dataset, name, value)
    dataset.PixelData = values.astype("<u2").tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def save_series(folder: Path, values: np.ndarray, orientation: tuple[float, ...] = AXIAL, **tags: Any) -> Path:
    """Write ``(D, H, W)`` of unsigned 16 bits as a series whose names do not follow its order; HU = values - 1024."""
    normal = np.cross(orientation[:3], orientation[3:])
    for index, plane in enumerate(values):
        position = tuple((np.array(ORIGIN) + index * SPACING[2] * normal).tolist())
        name = f"IM{(7 * index) % 31:02}.dcm"
        elements = {"RescaleSlope": 1, "RescaleIntercept": -1024, "ImageOrientationPatient": list(orientation)} | tags
        save_slice(folder / name, plane, position, InstanceNumber=len(values) - index, **elements)
    return folder


def save_segmentation(path: Path, series: Path, labels: np.ndarray) -> Path:
    """Write labels ``(D, H, W)``, or a channel for each segment, for a series; frames without any are left out."""
    images = sorted(map(dcmread, series.iterdir()), key=lambda image: -image.InstanceNumber)
    number = labels.shape[-1] if labels.ndim == 4 else int(labels.max())
    algorithm = AlgorithmIdentificationSequence("a", codes.DCM.ArtificialIntelligence, "1")
    segments = [
        SegmentDescription(
            segment_number=index,
            segment_label=f"s{index}",
            segmented_property_category=codes.SCT.Organ,
            segmented_property_type=codes.SCT.Liver,
            algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=algorithm,
        )
        for index in range(1, number + 1)
    ]
    segmentation = Segmentation(
        images,
        labels,
        SegmentationTypeValues.BINARY,
        segments,
        generate_uid(),
        1,
        generate_uid(),
        1,
        "m",
        "m",
        "1",
        "1",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    segmentation.save_as(path)
    return path
