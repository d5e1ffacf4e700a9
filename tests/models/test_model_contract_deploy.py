"""The networks in deployment: compilers, exporters, precisions, processes, copies."""

import copy
import io
import pickle
import shutil
import warnings

import pytest
import timm
import torch
from model_cases import CLASSES, PA, RESNEAT, Case, assert_same, assert_same_gradients, gradients, lively
from torch import nn
from torch.export import Dim
from torchvision.models.feature_extraction import create_feature_extractor

SMALL, WHOLE = "small", pytest.param("whole", marks=pytest.mark.full)
TRAINING = pytest.mark.parametrize("training", [pytest.param(False, marks=pytest.mark.full), True])


class DeployContract:
    """The contract; a subclass names the case. Most tests use fewer blocks of each kind, the full ones use all."""

    case: Case

    def model(self, dose: str = "small") -> nn.Module:
        """A network in eval mode whose attention affects the output."""
        return lively(self.case.small() if dose == "small" else self.case.create())

    # compilers and exporters

    @pytest.mark.parametrize(
        ("dose", "backend", "training"),
        [
            ("small", "aot_eager", True),
            pytest.param("whole", "aot_eager", False, marks=pytest.mark.full),
            pytest.param("whole", "aot_eager", True, marks=pytest.mark.full),
            pytest.param("small", "inductor", False, marks=pytest.mark.full),  # takes minutes to compile
            pytest.param("small", "inductor", True, marks=pytest.mark.full),
        ],
    )
    def test_compile(self, dose, backend, training):
        if backend == "inductor" and not any(map(shutil.which, ("g++", "clang++", "c++"))):
            pytest.skip("torch.compile's default backend needs a C++ compiler on this machine")
        model, images = self.model(dose).train(training).double(), self.case.images().double()
        torch.compiler.reset()
        compiled = torch.compile(model, fullgraph=True, backend=backend)
        assert_same(compiled(images), model(images))
        assert_same_gradients(gradients(model, images, run=compiled), gradients(model, images))

    @pytest.mark.parametrize("dose", [SMALL, WHOLE])
    def test_export_with_dynamic_batch_and_image_size(self, dose):
        model, size = self.model(dose), self.case.size
        batch, height, width = Dim("batch", min=1, max=64), Dim.AUTO, Dim.AUTO
        program = torch.export.export(
            model, (torch.randn(2, 3, size, size + 32),), dynamic_shapes=({0: batch, 2: height, 3: width},)
        )
        buffer = io.BytesIO()
        torch.export.save(program, buffer)
        buffer.seek(0)
        loaded = torch.export.load(buffer).module()
        for shape in ((1, 3, size, size + 32), (3, 3, size + 32, size), (5, 3, size, size)):
            images = torch.randn(shape)
            with torch.no_grad():
                assert_same(loaded(images), model(images))

    @pytest.mark.parametrize(
        ("dose", "dynamo"),
        [("small", False)] + [pytest.param("whole", dynamo, marks=pytest.mark.full) for dynamo in (True, False)],
    )
    def test_onnx_in_onnxruntime(self, dose, dynamo, tmp_path):
        pytest.importorskip("onnx", reason="needs the extra 'export'")
        runtime = pytest.importorskip("onnxruntime", reason="needs the extra 'export'")
        if dynamo:
            pytest.importorskip("onnxscript", reason="needs the extra 'export'")
        model, path = self.model(dose), tmp_path / "model.onnx"
        shapes = dict(dynamic_shapes=({0: Dim("batch")},)) if dynamo else dict(dynamic_axes={"images": {0: "batch"}})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                model, (self.case.images(),), path, dynamo=dynamo, input_names=["images"], external_data=False, **shapes
            )
        session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
        for batch in (1, 3):
            images = self.case.images(batch)
            (logits,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
            with torch.no_grad():
                assert_same(torch.from_numpy(logits), model(images), 1e-3)

    def test_fx_keeps_numbers_and_gradients(self):
        """Traced in the same way as by timm's feature extraction."""
        model, images = self.model().double(), self.case.images().double()
        tracer = dict(
            leaf_modules=timm.models.get_notrace_modules(),
            autowrap_functions=timm.models.get_notrace_functions(),
        )
        nodes = {self.case.classifier: "logits"}
        traced = create_feature_extractor(model, return_nodes=nodes, tracer_kwargs=tracer)
        expected = gradients(model, images)
        assert_same(traced(images)["logits"], model(images))
        assert_same_gradients(gradients(traced, images, run=lambda x: traced(x)["logits"]), expected)

    @pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated")
    @TRAINING
    def test_script_keeps_numbers_and_gradients(self, training):
        model, images = self.model().train(training).double(), self.case.images().double()
        scripted = torch.jit.script(copy.deepcopy(model))
        buffer = io.BytesIO()
        torch.jit.save(scripted, buffer)
        buffer.seek(0)
        for candidate in (scripted, torch.jit.load(buffer).train(training)):
            assert_same(candidate(images), copy.deepcopy(model)(images))
            assert_same_gradients(gradients(candidate, images), gradients(copy.deepcopy(model), images))

    # devices, precisions, layouts

    def test_meta_device(self):
        """Created without memory but with shapes, then filled with the weights of a real network."""
        with torch.device("meta"):
            by_context = self.case.create()
        model = self.case.create(device="meta")
        for candidate in (by_context, model):
            assert {tensor.device.type for tensor in [*candidate.parameters(), *candidate.buffers()]} == {"meta"}
        assert model(self.case.images().to("meta")).shape == (2, CLASSES)
        real, images = lively(self.case.create()), self.case.images()
        for assign in (False, True):
            filled = self.case.create(device="meta")
            filled = filled if assign else filled.to_empty(device="cpu")
            filled.load_state_dict(real.state_dict(), assign=assign)
            with torch.no_grad():
                assert_same(filled.eval()(images), real(images))

    @pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.full)])
    def test_autocast(self, dtype):
        model, images = self.model(), self.case.images()
        expected = gradients(model, images)
        with torch.no_grad():
            logits = model(images)
        with torch.autocast("cpu", dtype):
            output = model(images)
            assert output.dtype == dtype
            actual = gradients(model, images)
        assert_same(output, logits, 0.1)
        # rounding moves each gradient; together they must still point the same way
        flat, flat_expected = (torch.cat([g.flatten() for g in group.values()]) for group in (actual, expected))
        assert flat.isfinite().all()
        assert nn.functional.cosine_similarity(flat, flat_expected, dim=0) > 0.95
        trained = gradients(model.train(), images, run=torch.autocast("cpu", dtype)(model))
        assert all(gradient.isfinite().all() for gradient in trained.values())

    @TRAINING
    def test_channels_last(self, training):
        model, images = self.model().train(training).double(), self.case.images().double()
        plain = copy.deepcopy(model)
        model = model.to(memory_format=torch.channels_last)
        images_last = images.to(memory_format=torch.channels_last)
        assert_same(model(images_last), plain(images))
        assert_same_gradients(gradients(model, images_last), gradients(plain, images))
        features = model.forward_features(images_last)
        assert features.is_contiguous(memory_format=torch.channels_last), "the layout is kept on the way"

    def test_any_image_size(self):
        """No size is hard-coded: wide, tall and odd sizes work, and each image gives the same result as on its own."""
        model, size = self.model(), self.case.size
        for height, width in ((size, size + 40), (size + 33, size + 1)):
            images = torch.randn(2, 3, height, width)
            with torch.no_grad():
                logits = model(images)
                assert_same(torch.cat([model(image[None]) for image in images]), logits)

    # processes and copies

    def test_deepcopy_and_pickle(self):
        model, images = self.model(), self.case.images()
        model(images)  # whatever a forward pass leaves behind must be copied or dropped
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        copies = [
            copy.deepcopy(model),
            pickle.loads(pickle.dumps(model)),
            torch.load(buffer, weights_only=False),
        ]
        with torch.no_grad():
            expected = model(images)
            for other in copies:
                assert torch.equal(other(images), expected)
            for parameter in model.parameters():
                parameter.zero_()
            for other in copies:
                assert torch.equal(other(images), expected), "a copy shares nothing"

    def test_state_dict_round_trip(self, tmp_path):
        from safetensors.torch import load_model, save_model

        model, images = self.model("whole"), self.case.images()
        save_model(model, tmp_path / "model.safetensors")
        other = self.case.create()
        assert load_model(other, tmp_path / "model.safetensors") == (set(), [])
        with torch.no_grad():
            assert torch.equal(other.eval()(images), model(images))


class TestResNeAt(DeployContract):
    """resneat50."""

    case = RESNEAT


class TestInceptionResnetPa(DeployContract):
    """inception_resnet_pa."""

    case = PA
