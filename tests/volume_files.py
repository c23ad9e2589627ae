"""Small volumes, written by SimpleITK and pydicom."""

import io

import numpy as np
import pydicom
import SimpleITK
from pydicom import uid

from trainer.data.formats import discovery

LIMIT = 10**6
TURNED = (0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0)  # about the axis of the slices
CT = np.arange(24, dtype=np.int16).reshape(2, 3, 4) - 10


def source_of(path, **fields):
    return discovery.Source("x", str(path), None, "X", **fields)


def save(path, values=CT, spacing=(3.0, 0.5, 0.4), origin=(-12.5, 7.5, 90.0), direction=TURNED):
    """Writes [D, H, W], or [D, H, W, C] where `values` has four axes, and returns its source."""
    image = SimpleITK.GetImageFromArray(values, isVector=values.ndim == 4)
    image.SetSpacing(spacing[::-1])
    image.SetOrigin(origin)
    image.SetDirection(direction)
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(image, str(path), useCompression=True)
    return source_of(path)


def save_4d(path, channels, spacing=(1.0, 1.0, 1.0)):
    """Writes [D, H, W] of each channel along a fourth axis, and returns the source."""
    images = [SimpleITK.GetImageFromArray(one) for one in channels]
    for image in images:
        image.SetSpacing(spacing[::-1])
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(SimpleITK.JoinSeries(images), str(path))
    return source_of(path)


def save_series(folder, values=CT, places=None, **attributes):
    """Writes slices [D, H, W] as DICOM, in the reverse of their order, and returns the source."""
    folder.mkdir(parents=True, exist_ok=True)
    series = uid.generate_uid()
    places = [3.0 * k for k in range(len(values))] if places is None else places
    for k, (one, place) in enumerate(zip(values, places, strict=True)):
        data = pydicom.Dataset()
        data.file_meta = pydicom.dataset.FileMetaDataset()
        data.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = uid.CTImageStorage
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = uid.generate_uid()
        data.Rows, data.Columns = one.shape
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated = data.BitsStored = 16
        data.HighBit, data.PixelRepresentation = 15, int(one.dtype.kind == "i")
        data.SeriesInstanceUID = series
        data.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        data.ImagePositionPatient = [-12.5, 7.5, place]
        data.PixelSpacing = [0.5, 0.4]
        for name, value in attributes.items():
            setattr(data, name, value)
        data.PixelData = one.tobytes()
        file = io.BytesIO()
        data.save_as(file, enforce_file_format=True)
        (folder / f"{len(values) - k:04}").write_bytes(file.getvalue())  # without a suffix
    return source_of(folder, is_series=True)
