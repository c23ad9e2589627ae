"""Exports: used by processes that know nothing of this package, equal to what predicts here."""

import base64
import http.server
import io
import json
import os
import pathlib
import shutil
import subprocess
import textwrap
import threading

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests import jobs, runs
from tests.devices import strategy_of
from tests.shards import write_data
from trainer import cli, config, export
from trainer.data.formats import discovery, images, pictures
from trainer.errors import InputError
from trainer.export import __main__ as command
from trainer.export import export_run, lite, model_card, onnx_model, serving
from trainer.models import plain_keras
from trainer.predict import masks, predictor

pytestmark = pytest.mark.slow  # networks are traced and saved, and processes started


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = runs.write_run(tmp_path_factory.mktemp("run"), channels=3, depth=1)
    runs.calibrate(folder, 1.6)
    return folder


@pytest.fixture(scope="module")
def loaded(run_dir):
    return predictor.Predictor([run_dir], strategy_of(1))


@pytest.fixture(scope="module")
def exported(run_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    export.write(run_dir, str(folder))
    return folder


def picture(height=40, width=33, seed=0, channels=3):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 255, (height, width, channels)).astype(np.uint8)


def encoded(image, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(file, kind)
    return file.getvalue()


def test_the_saved_model_needs_nothing_of_ours(exported, loaded, tmp_path):
    batch = np.stack([picture(seed=n) for n in range(3)])
    np.save(tmp_path / "x.npy", batch)
    code = (
        "import numpy, tensorflow as tf\n"
        "model = tf.saved_model.load(sys.argv[1])\n"
        "found = model.signatures['serving_default'](tf.constant(numpy.load(sys.argv[2])))\n"
        "numpy.savez(sys.argv[3], **{name: value.numpy() for name, value in found.items()})"
    )
    jobs.in_a_clean_process(code, exported, tmp_path / "x.npy", tmp_path / "y.npz")
    found = np.load(tmp_path / "y.npz")
    np.testing.assert_allclose(found["probabilities"], loaded.probabilities(batch), atol=runs.CLOSE)
    runs.assert_same_mask(found["mask"], loaded.predict(batch), loaded.probabilities(batch))
    assert found["mask"].dtype == np.uint8
    assert set(np.unique(found["mask"])) == {0, 255}


def test_plain_keras_reads_the_keras_file(exported, loaded, tmp_path):
    image = picture(70, 90)
    np.save(tmp_path / "x.npy", image)
    code = (
        "import numpy, keras\n"
        "model = keras.models.load_model(sys.argv[1])\n"
        "numpy.save(sys.argv[3], model(numpy.load(sys.argv[2])[None])[0])"
    )
    paths = (exported / "model.keras", tmp_path / "x.npy", tmp_path / "y.npy")
    jobs.in_a_clean_process(code, *paths)
    expected = loaded.probabilities(image)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, atol=runs.CLOSE)


def server_of(loaded, *, tile=0, **changes):
    member = loaded.networks.members[0]
    settings = {
        "channels": loaded.networks.channels,
        "dtype": loaded.networks.dtype,
        "values": loaded.networks.values,
        "mask_dtype": masks.smallest_dtype(loaded.networks.values).name,
        "normalize": member.normalize,
        "mean": member.mean,
        "std": member.std,
        "multiple": 64,
        "tile": tile,
        "halo": loaded.networks.halo,
        **changes,
    }
    return serving.Server(plain_keras.core(member.model, member.temperature), **settings)


@pytest.mark.parametrize("size", [(130, 250), (64, 65), (300, 40)])
def test_tiles_inside_the_graph_equal_the_whole_image(loaded, size):
    images = picture(*size)[np.newaxis]
    whole = server_of(loaded).predict(tf.constant(images))["probabilities"]
    tiled = server_of(loaded, tile=64).predict(tf.constant(images))["probabilities"]
    np.testing.assert_allclose(tiled, whole, atol=runs.CLOSE)
    np.testing.assert_allclose(whole[0], loaded.probabilities(images[0]), atol=runs.CLOSE)


@pytest.mark.parametrize("normalize", ["image", "dataset", "none"])
@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_keras_network_normalises_pads_and_crops(tmp_path, normalize, num_classes):
    names, values = [("a", "b", "c")[:num_classes], (0, 300, 7)[:num_classes]]
    run = runs.write_run(
        tmp_path, depth=1, normalize=normalize, dtype="uint16", classes=names, values=values
    )
    networks = predictor.Predictor([run], strategy_of(1))
    # Normalised by `dataset`, up to 30, and so are the logits: what rounds grows with the numbers.
    image = picture(channels=1).astype(np.uint16) + np.uint16(1000)
    image[:, :5] = 300
    member = networks.networks.members[0]
    model = plain_keras.plain(member.model, normalize, member.mean, member.std, "uint16", 64)
    expected = networks.probabilities(image)
    np.testing.assert_allclose(model(image[np.newaxis])[0], expected, atol=runs.CLOSE)
    found = server_of(networks).predict(tf.constant(image[np.newaxis]))
    np.testing.assert_allclose(found["probabilities"][0], expected, atol=runs.CLOSE)
    runs.assert_same_mask(found["mask"][0], networks.predict(image), expected)
    assert found["mask"].dtype == tf.uint16


def difference_of_keras(folder, height, width, **settings):
    """Returns by how much probabilities of `.keras` and of prediction differ on a large image."""
    run = runs.write_run(folder, channels=3, depth=1, filters=2, **settings)
    networks = predictor.Predictor([run], strategy_of(1), tile=2048)
    image = np.clip(np.random.default_rng(0).normal(150, 30, (height, width, 3)), 0, 255)
    image = image.astype(np.uint8)
    image[: height // 2] //= 2  # means of parts differ
    member = networks.networks.members[0]
    figures = member.normalize, member.mean, member.std
    model = plain_keras.plain(member.model, *figures, "uint8", 64, member.temperature)
    return np.abs(model(image[np.newaxis])[0] - networks.probabilities(image)).max()


@pytest.mark.parametrize("normalize", ["image", "none"])
@pytest.mark.parametrize("norm", ["batch", "instance", "group"])
def test_a_large_image_is_to_the_keras_network_what_it_is_to_prediction(tmp_path, norm, normalize):
    assert difference_of_keras(tmp_path, 1700, 1800, norm=norm, normalize=normalize) < 1e-5


@pytest.mark.long
def test_an_image_of_24_megapixels_is_to_the_keras_network_what_it_is_to_prediction(tmp_path):
    assert difference_of_keras(tmp_path, 4000, 6000) < 1e-5


def test_a_constant_channel_is_0_to_the_keras_network_too(loaded):
    image = picture()
    image[..., 1] = 9
    member = loaded.networks.members[0]
    model = plain_keras.plain(member.model, "image", (), (), "uint8", 64, member.temperature)
    np.testing.assert_allclose(model(image[None])[0], loaded.probabilities(image), atol=runs.CLOSE)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("kind", ["grey", "colour", "alpha"])
def test_png_files_are_decoded_as_prepare_reads_them(loaded, channels, kind, tmp_path):
    image = picture(channels={"grey": 1, "colour": 3, "alpha": 4}[kind])
    (tmp_path / "x.png").write_bytes(encoded(image))
    source = discovery.Source("x", str(tmp_path / "x.png"), None, "x")
    expected = images.convert(images.read_image(source, 10**6), channels, "uint8", "x")
    found = server_of(loaded, channels=channels)._decode(tf.constant(encoded(image)))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_files_are_set_upright_as_prepare_does(loaded, kind, byteorder, tmp_path):
    smooth = np.linspace(0, 250, 16 * 24 * 3).reshape(16, 24, 3).astype(np.uint8)
    server = server_of(loaded)
    decode = tf.function(server._decode, input_signature=[tf.TensorSpec([], tf.string)])
    source = discovery.Source("x", str(tmp_path / "x"), None, "x")
    for number in range(10):
        exif = Image.Exif()
        exif.endian = byteorder
        exif[271] = "a maker"
        exif[pictures.ORIENTATION] = number
        file = io.BytesIO()
        Image.fromarray(smooth).save(file, kind, exif=exif)
        (tmp_path / "x").write_bytes(file.getvalue())
        expected = images.read_image(source, 10**6).values
        assert expected.shape[:2] == ((24, 16) if 5 <= number <= 8 else (16, 24))
        found = decode(file.getvalue()).numpy().astype(int)
        assert np.abs(found - expected).max() <= (2 if kind == "JPEG" else 0), number


def test_exif_that_is_cut_turns_nothing(loaded):
    image = picture()
    exif = Image.Exif()
    exif[pictures.ORIENTATION] = 6
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG", exif=exif.tobytes()[:12])
    found = server_of(loaded)._decode(tf.constant(file.getvalue()))
    np.testing.assert_array_equal(found, image)


@pytest.mark.parametrize(("dtype", "factor"), [("uint8", 1), ("uint16", 257)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_jpeg_files_are_decoded_nearly_as_pillow_does(loaded, channels, dtype, factor, tmp_path):
    smooth = np.linspace(0, 250, 40 * 33 * 3).reshape(40, 33, 3).astype(np.uint8)
    (tmp_path / "x.jpg").write_bytes(encoded(smooth, "JPEG"))
    source = discovery.Source("x", str(tmp_path / "x.jpg"), None, "x")
    expected = images.convert(images.read_image(source, 10**6), channels, dtype, "x")
    server = server_of(loaded, channels=channels, dtype=dtype)
    found = server._decode(tf.constant(encoded(smooth, "JPEG"))).numpy()
    assert found.dtype == dtype
    assert np.abs(found.astype(int) - expected).max() <= 2 * factor


def test_16_bit_png_files_keep_their_bits(loaded):
    image = picture(channels=1)[..., 0].astype(np.uint16) * 200
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    server = server_of(loaded, channels=1, dtype="uint16")
    np.testing.assert_array_equal(server._decode(tf.constant(file.getvalue()))[..., 0], image)
    eight = server._decode(tf.constant(encoded(picture(channels=1))))
    np.testing.assert_array_equal(eight, picture(channels=1).astype(np.uint16) * 257)


def answer(model, body):
    """Answers a request as TensorFlow Serving's REST interface does.

    https://www.tensorflow.org/tfx/serving/api_rest: rows of `instances`, a signature of one input
    may be given values alone; {"b64": …} means bytes; outputs whose name ends in _bytes come
    so, too; one output comes without its name.
    """
    request = json.loads(body)
    signature = model.signatures[request.get("signature_name", "serving_default")]
    ((name, spec),) = signature.structured_input_signature[1].items()
    rows = [
        row[name] if isinstance(row, dict) and name in row else row for row in request["instances"]
    ]
    if spec.dtype == tf.string:
        rows = [base64.b64decode(row["b64"]) for row in rows]
    found = signature(**{name: tf.constant(rows, spec.dtype)})
    predictions = []
    for n in range(len(rows)):
        row = {
            key: {"b64": base64.b64encode(value[n].numpy()).decode()}
            if key.endswith("_bytes")
            else value[n].numpy().tolist()
            for key, value in found.items()
        }
        predictions.append(next(iter(row.values())) if len(row) == 1 else row)
    return json.dumps({"predictions": predictions}).encode()


def test_requests_of_rest_fit_the_signatures(exported, loaded):
    model = tf.saved_model.load(str(exported))
    image = picture()
    expected = loaded.predict(image)
    raw = {"instances": [image.tolist(), image.tolist()]}
    found = json.loads(answer(model, json.dumps(raw)))["predictions"]
    probabilities = loaded.probabilities(image)
    runs.assert_same_mask(found[1]["mask"], expected, probabilities)
    np.testing.assert_allclose(found[1]["probabilities"], probabilities, atol=runs.CLOSE)

    file = {"image_bytes": {"b64": base64.b64encode(encoded(image)).decode()}}
    body = json.dumps({"signature_name": "encoded", "instances": [file]})
    found = json.loads(answer(model, body))["predictions"]
    runs.assert_same_mask(found[0]["mask"], expected, probabilities)

    small = {"image_bytes": {"b64": base64.b64encode(encoded(picture(9, 21))).decode()}}
    body = json.dumps({"signature_name": "png", "instances": [file, small]})
    found = json.loads(answer(model, body))["predictions"]
    masks = [np.asarray(Image.open(io.BytesIO(base64.b64decode(one["b64"])))) for one in found]
    runs.assert_same_mask(masks[0], expected, probabilities)
    assert masks[1].shape == (9, 21)


def test_the_command_of_signature_json_works_in_a_shell(exported, loaded, tmp_path):
    described = json.loads((exported / "signature.json").read_text())
    model = tf.saved_model.load(str(exported))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            assert self.path == "/v1/models/unet:predict"
            body = answer(model, self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *message):
            pass

    (tmp_path / "image.png").write_bytes(encoded(picture()))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        command = described["examples"]["ask_tensorflow_serving"]
        command = command.replace("localhost:8501", f"127.0.0.1:{server.server_port}")
        environment = {**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
        subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True, env=environment, timeout=60)
        server.shutdown()
    mask = np.asarray(Image.open(tmp_path / "mask.png"))
    runs.assert_same_mask(mask, loaded.predict(picture()), loaded.probabilities(picture()))


def test_signature_json_says_what_the_model_takes_and_gives(exported):
    described = json.loads((exported / "signature.json").read_text())
    assert list(described["signatures"]) == ["serving_default", "encoded", "png"]
    assert described["signatures"]["serving_default"] == {
        "inputs": {"images": {"dtype": "uint8", "shape": [None, None, None, 3]}},
        "outputs": {
            "mask": {"dtype": "uint8", "shape": [None, None, None]},
            "probabilities": {"dtype": "float32", "shape": [None, None, None, 2]},
        },
    }
    assert described["signatures"]["png"]["outputs"] == {
        "mask_bytes": {"dtype": "string", "shape": [None]}
    }
    assert described["classes"][1] == {"id": 1, "name": "nucleus", "value": 255}
    assert described["step"] == 7
    model = tf.saved_model.load(str(exported))
    assert set(model.signatures) == set(described["signatures"])


def test_the_card_names_data_classes_and_limits(exported):
    card = (exported / "model_card.md").read_text()
    for said in (
        "Origin: drawn",
        "Licence of the data: CC0",
        "| 1 | nucleus | 255 | 50.0% |",
        "Not evaluated",
        "Each image is normalised by its own pixels",
        "best weights of step 7",
        "Tested on images like those of the training data only (drawn)",
        "- Versions: trainer ",
        "- Started: 20",
        "      python -m trainer.task ",
        "curl",
    ):
        assert said in card


@pytest.mark.parametrize("name", ["python", "python_with_keras_alone"])
def test_the_python_of_the_card_needs_nothing_of_ours(exported, loaded, tmp_path, name):
    image = picture(50, 70)
    (tmp_path / "image.png").write_bytes(encoded(image))
    code = json.loads((exported / "signature.json").read_text())["examples"][name]
    assert textwrap.indent(code, "    ") in (exported / "model_card.md").read_text()
    code = f"import os\nos.chdir(sys.argv[1])\n{code.replace('OUTPUT', str(exported))}"
    jobs.in_a_clean_process(code, tmp_path)
    probabilities = loaded.probabilities(image)
    if name == "python":
        mask = np.load(tmp_path / "mask.npy")
        runs.assert_same_mask(mask, loaded.predict(image), probabilities)
    else:
        found = np.load(tmp_path / "probabilities.npy")
        np.testing.assert_allclose(found, probabilities, atol=runs.CLOSE)


def test_python_for_images_of_floats_reads_an_array():
    code = model_card.image_examples(["serving_default"], "float32")["python"]
    assert 'image = np.load("image.npy")  # float32 [H, W, C]' in code
    assert "PIL" not in code


def test_the_card_shows_names_as_they_are_and_in_their_place():
    assert model_card._plain("blood_cells 2.5 µm") == "blood_cells 2.5 µm"
    assert model_card._plain("_a_ | <script>\n# [x](y) `z`") == (
        r"\_a\_ \| \<script\> \# \[x\](y) \`z\`"
    )


def test_signatures_are_those_that_the_pixels_allow(tmp_path, loaded):
    names = {
        kind: list(server_of(loaded, dtype=kind, channels=channels, mask_dtype=mask).signatures())
        for kind, channels, mask in (("uint16", 1, "int16"), ("float32", 1, "uint8"))
    }
    assert names == {
        "uint16": ["serving_default", "uint8", "encoded"],
        "float32": ["serving_default"],
    }
    assert "instances" in model_card.examples(["serving_default"], 2)["ask_tensorflow_serving"]


def test_the_command_exports_what_a_run_has_learnt(tmp_path, finished):
    run = shutil.copytree(finished, tmp_path / "run")
    result = jobs.command("trainer.export", f"--run_dir={run}")
    assert result.returncode == 0, result.stderr
    card = (run / "export" / "model_card.md").read_text()
    assert "On 3 whole images of the test split:" in card
    assert {"saved_model.pb", "model.keras", "signature.json"} <= set(os.listdir(run / "export"))
    summary = json.loads((run / "evaluation" / "test" / "summary.json").read_text())
    assert f"{summary['classes']['class1']['pooled']['dice']:.4f}" in card


def test_lite_and_onnx_are_measured_against_the_original(run_dir, tmp_path):
    pytest.importorskip("ai_edge_litert")
    pytest.importorskip("tf2onnx")
    data = tmp_path / "data"
    data.mkdir()
    classes = {"train": [(40, 40)] * 4, "val": [(40, 40)], "test": [(30, 50)] * 3}
    write_data(data, classes, channels=3)
    manifest = json.loads((data / "manifest.json").read_text())
    for entry, name in zip(manifest["classes"], ("background", "nucleus"), strict=True):
        entry["name"] = name
    (data / "manifest.json").write_text(json.dumps(manifest))
    settings = config.Export(tflite=True, tflite_size=32, onnx=True, data_dir=str(data))
    found = export.write(run_dir, str(tmp_path / "out"), settings)["differences"]
    assert set(found) == {"model_float16.tflite", "model_int8.tflite", "model.onnx"}
    assert all(figures["images"] == 3 for figures in found.values())
    assert found["model.onnx"]["largest_probability_difference"] < 1e-4
    assert found["model.onnx"]["pixels_of_another_class"] < 1e-3
    assert 0 < found["model_float16.tflite"]["largest_probability_difference"] < 0.02
    assert 0 < found["model_int8.tflite"]["mean_probability_difference"] < 0.1
    card = (tmp_path / "out" / "model_card.md").read_text()
    assert "over 3 images, probabilities differ by" in card


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--run_dir={at}/none"], "--run_dir={at}/none has no run.json; name a folder that "),
        (["--tile=20"], "--tile=20 leaves nothing between halos of 12 pixels; use at least 64,"),
        (["--output={at}/x"], "--output={at}/x is a file; name a folder."),
    ],
)
def test_what_cannot_be_is_one_line(run_dir, tmp_path, argv, message, capsys):
    (tmp_path / "x").write_text("")
    argv = [f"--run_dir={run_dir}", f"--output={tmp_path}/out", *argv]
    argv = [word.format(at=tmp_path) for word in argv]
    with pytest.raises(SystemExit) as stop:
        cli.run(config.Export, command.main, ["export", *argv])
    assert stop.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(message.format(at=tmp_path))


def test_missing_extras_are_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'needs ai-edge-litert; pip install "\.\[tflite\]"\.'):
        lite.check_installed()
    with pytest.raises(InputError, match=r"--onnx needs tf2onnx and onnxruntime; pip install"):
        onnx_model.check_installed()


def test_a_gs_folder_takes_an_export(run_dir, exported, gcs, bucket):
    export.write(run_dir, f"{bucket}/model")
    paths = [path for path in pathlib.Path(exported).rglob("*") if path.is_file()]
    local = sorted(str(path.relative_to(exported)) for path in paths)
    assert gcs.names(f"{bucket}/model/") == local
    assert gcs.read(f"{bucket}/model/model_card.md") == (exported / "model_card.md").read_bytes()
    assert tf.saved_model.load(f"{bucket}/model").signatures["serving_default"]


def test_an_export_says_that_it_has_no_post_processing(run_dir, tmp_path, monkeypatch, caplog):
    copy = shutil.copytree(run_dir, tmp_path / "decided")
    decision = {"keep_largest": {"foreground": True, "classes": []}}
    (copy / "postprocessing.json").write_text(json.dumps(decision))
    monkeypatch.setattr(export_run, "_write_for_images", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        export_run.export(str(tmp_path), config.Export(run_dir=str(copy)))
    assert "Only the largest component of the foreground is kept in masks of" in caplog.text
    assert "no exported model does that" in caplog.text
