"""A DICOM whole slide of drawn pixels: level 0 written attribute by attribute, the levels above it by wsidicom."""

import warnings
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit, VLWholeSlideMicroscopyImageStorage, generate_uid

TILE = 256


def write_level(path: Path, pixels: NDArray[np.uint8], mpp: float = 0.5, quality: int = 95) -> Path:
    """Write (h, w, 3) RGB as one file: JPEG tiles of 256 px, all of them, with the chroma at half resolution."""
    height, width = pixels.shape[:2]
    padded = np.pad(pixels, ((0, -height % TILE), (0, -width % TILE), (0, 0)), mode="edge")
    corners = [(y, x) for y in range(0, height, TILE) for x in range(0, width, TILE)]
    tiles = [np.ascontiguousarray(padded[y : y + TILE, x : x + TILE]) for y, x in corners]
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = VLWholeSlideMicroscopyImageStorage, generate_uid()
    meta.TransferSyntaxUID = JPEGBaseline8Bit
    made = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    made.ImageType, made.Modality = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], "SM"
    made.StudyInstanceUID, made.SeriesInstanceUID, made.FrameOfReferenceUID = (generate_uid() for _ in range(3))
    made.InstanceNumber, made.DimensionOrganizationType = 1, "TILED_FULL"
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PlanarConfiguration = 3, "YBR_FULL_422", 0
    made.NumberOfFrames, made.Rows, made.Columns = len(tiles), TILE, TILE
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 8, 8, 7, 0
    made.LossyImageCompression, made.LossyImageCompressionMethod = "01", "ISO_10918_1"
    made.LossyImageCompressionRatio = 10
    made.TotalPixelMatrixColumns, made.TotalPixelMatrixRows = width, height
    made.ImagedVolumeWidth, made.ImagedVolumeHeight, made.ImagedVolumeDepth = width * mpp / 1e3, height * mpp / 1e3, 1.0
    made.ImageOrientationSlide = [0, -1, 0, -1, 0, 0]
    made.FocusMethod, made.ExtendedDepthOfField, made.VolumetricProperties = "AUTO", "NO", "VOLUME"
    made.SpecimenLabelInImage, made.BurnedInAnnotation, made.NumberOfOpticalPaths = "NO", "NO", 1
    measures, shared, origin, path_of_light = Dataset(), Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [mpp / 1e3, mpp / 1e3], 0.001
    shared.PixelMeasuresSequence = [measures]
    made.SharedFunctionalGroupsSequence = [shared]
    origin.XOffsetInSlideCoordinateSystem = origin.YOffsetInSlideCoordinateSystem = 0.0
    made.TotalPixelMatrixOriginSequence = [origin]
    path_of_light.OpticalPathIdentifier = "0"
    made.OpticalPathSequence = [path_of_light]
    made.PixelData = encapsulate([simplejpeg.encode_jpeg(tile, quality, "RGB", "422") for tile in tiles])
    made["PixelData"].VR = "OB"
    made.save_as(path, enforce_file_format=True)
    return path


def write_pyramid(folder: Path, pixels: NDArray[np.uint8], mpp: float = 0.5) -> list[Path]:
    """The files of a series: `pixels` and all levels that wsidicom adds above them, in no order."""
    from wsidicom import WsiDicom

    base = write_level(folder.parent / f"{folder.name}-level0.dcm", pixels, mpp)
    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # wsidicom on attributes that only a scanner would fill in
        with WsiDicom.open(base) as slide:
            made = slide.save(folder, add_missing_levels=True)
    base.unlink()
    return sorted(Path(str(file)) for file in made)
