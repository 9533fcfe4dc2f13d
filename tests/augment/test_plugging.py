"""The operators and Augment inside what people already have: other libraries, DataLoader workers, torch's compilers."""

import copy
import io
import pickle
from typing import Any

import kornia
import kornia.augmentation as K
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

import fastaug as fa
from fastaug.augment import geometry
from fastaug.augment.augment import Operator
from fastaug.warping import warp as warp_module
from tests import factories
from tests.compare import assert_images_close, photo, random_image

OPERATORS = [*factories.OPERATORS, fa.RandomErasing(p=1.0)]
IDS = [type(op).__name__ for op in OPERATORS]
AUGMENT = fa.Augment(OPERATORS, (20, 24))
IMAGES = torch.stack([random_image(20, 30, seed) for seed in range(4)])


def seeded(function: Any, *arguments: Any) -> Any:
    torch.manual_seed(7)
    return function(*arguments)


@pytest.mark.parametrize("op", [*OPERATORS, AUGMENT], ids=[*IDS, "Augment"])
def test_every_layout_gives_the_same(op: nn.Module) -> None:
    """uint8 and float, channels last and first, a batch of one and a single image, a tensor and a tv_tensor."""
    expected = seeded(op, IMAGES[:1])
    first = IMAGES[:1].permute(0, 3, 1, 2)
    for images in (first, first.contiguous(), tv_tensors.Image(first), first.float() / 255, first.double() / 255):
        out = seeded(op, images)
        assert type(out) is Tensor
        assert_images_close(out, expected, 0.02)
        assert_images_close(seeded(op, images[0])[None], expected, 0.02)


def test_inside_torchvisions_compose() -> None:
    """One interpolation in the middle of a v2 pipeline, image by image as a data set calls it."""
    pipeline = v2.Compose(
        [fa.RandomHorizontalFlip(p=1.0), v2.Normalize((0.5,) * 3, (0.5,) * 3), v2.ToDtype(torch.float16)]
    )
    out = pipeline(tv_tensors.Image(IMAGES[0].permute(2, 0, 1)))
    assert out.dtype == torch.float16
    assert_images_close(out, IMAGES[0].permute(2, 0, 1).flip(2) / 127.5 - 1, 0.2)
    assert v2.Compose([v2.RandomCrop(16), AUGMENT])(tv_tensors.Image(IMAGES.permute(0, 3, 1, 2))).shape == (
        4,
        3,
        20,
        24,
    )


@pytest.mark.parametrize("op", [*OPERATORS, AUGMENT], ids=[*IDS, "Augment"])
def test_as_a_member_of_kornias_augmentation_sequential(op: nn.Module) -> None:
    images = IMAGES.permute(0, 3, 1, 2).float() / 255
    chain = K.AugmentationSequential(op, data_keys=["input"])
    assert torch.equal(seeded(chain, images), seeded(op, images))
    assert K.AugmentationSequential(K.RandomGaussianBlur((3, 3), (1, 1)), op, data_keys=["input"])(images).shape[
        :2
    ] == (4, 3)


def test_kornias_members_and_ours_are_applied_in_order() -> None:
    images = IMAGES.permute(0, 3, 1, 2).float() / 255
    chain = K.AugmentationSequential(
        K.RandomVerticalFlip(p=1.0), fa.RandomRotation((90, 90)), fa.RandomHorizontalFlip(p=1.0), data_keys=["input"]
    )
    square = images[..., :20]
    assert_images_close(chain(square), square.flip(2).rot90(1, (2, 3)).flip(3), 0.1)


@pytest.mark.parametrize("align_corners", [True, False])
def test_our_matrix_is_kornias_transform_matrix(align_corners: bool) -> None:
    """Kornia's warp with our matrix, its convention, gives our image."""
    image = photo("coffee", 90, 120)
    params = fa.aug_transforms(size=(50, 60), min_scale=0.5).draw(4, (90, 120))
    images = image.permute(2, 0, 1).expand(4, -1, -1, -1).double() / 255
    theirs = kornia.geometry.warp_perspective(
        images, geometry.to_integer_centred(params.matrix.double()), (50, 60), "bilinear", "zeros", align_corners
    )
    ours = fa.warp(images, params.matrix, (50, 60), "bilinear", "zeros", dtype=torch.float64)
    assert_images_close(ours, theirs, 0.01)
    wrong = kornia.geometry.warp_perspective(
        images, params.matrix.double(), (50, 60), "bilinear", "zeros", align_corners
    )
    with pytest.raises(AssertionError, match="apart"):  # corner-origin as it is: half a pixel off where it scales
        assert_images_close(ours, wrong, 0.01)


def test_kornias_transform_matrix_is_ours() -> None:
    """What Kornia drew can be applied by fa.warp, and carries our points."""
    images = photo("coffee", 60, 80).permute(2, 0, 1).expand(3, -1, -1, -1).double() / 255
    theirs = K.AugmentationSequential(
        K.RandomAffine(20, (0.1, 0.1), (0.8, 1.2), p=1.0, align_corners=True), K.RandomHorizontalFlip(p=1.0),
        data_keys=["input", "keypoints"],
    )  # fmt: skip
    points = torch.tensor([[[20.0, 30], [44, 25]]], dtype=torch.float64).expand(3, 2, 2)
    out, moved = theirs(images, points)
    matrix = geometry.from_integer_centred(theirs.transform_matrix)
    flipped = fa.warp(images, matrix, (60, 80), "bilinear", "zeros", dtype=torch.float64)
    assert_images_close(flipped, out, 0.01)
    ours, _ = fa.transform_points(points + 0.5, matrix, (60, 80))  # Kornia's (0, 0) is our (0.5, 0.5)
    torch.testing.assert_close(ours - 0.5, moved.to(ours), atol=1e-4, rtol=0)


@pytest.mark.parametrize("op", [*OPERATORS, AUGMENT], ids=[*IDS, "Augment"])
def test_behind_another_dataloader(op: nn.Module) -> None:
    """On collated batches, uint8 and channels first, as torchvision's data sets give them."""
    images = IMAGES.permute(0, 3, 1, 2)
    batches = list(DataLoader([(tv_tensors.Image(image), i) for i, image in enumerate(images)], 2))
    assert [y.tolist() for _, y in batches] == [[0, 1], [2, 3]]
    for (batch, _), rows in zip(batches, (IMAGES[:2], IMAGES[2:]), strict=True):
        assert torch.equal(seeded(op, batch), seeded(op, rows))


def test_behind_dalis_pytorch_iterator() -> None:
    from nvidia.dali import fn, pipeline_def
    from nvidia.dali.plugin.pytorch import DALIGenericIterator

    @pipeline_def(batch_size=3, num_threads=1, device_id=None)
    def pipeline() -> Any:
        return fn.external_source([[image.numpy() for image in IMAGES[:3]]])

    iterator = DALIGenericIterator(pipeline(), ["images"], auto_reset=False)
    (batch,) = next(iterator)
    for op in (*OPERATORS, AUGMENT):
        assert torch.equal(seeded(op, batch["images"]), seeded(op, IMAGES[:3])), op


class Augmented(Dataset[tuple[Tensor, Tensor]]):
    """Images that are augmented in the worker, one by one: by an Augment, and by operators one after the other."""

    def __init__(self, images: Tensor):
        self.images, self.chain = images, nn.Sequential(*OPERATORS)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return AUGMENT(self.images[index]), self.chain(self.images[index])


def epochs(workers: int, context: str | None, n: int = 2) -> list[Tensor]:
    """Of both ways, [epochs, images, 3, H, W]."""
    data = Augmented(IMAGES[:1].expand(8, -1, -1, -1).contiguous())
    loader = DataLoader(
        data, 4, num_workers=workers, multiprocessing_context=context, generator=torch.Generator().manual_seed(5),
        persistent_workers=workers > 0,
    )  # fmt: skip
    found = [[torch.cat(part) for part in zip(*loader, strict=True)] for _ in range(n)]
    return [torch.stack(part) for part in zip(*found, strict=True)]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_dataloader_workers_forked_and_spawned() -> None:
    """Every image of every epoch gets its own draw, in whichever worker; the loader's generator repeats them all."""
    AUGMENT(IMAGES)  # the parent's threads are up before it forks
    forked, again = epochs(2, "fork"), epochs(2, "fork")
    spawned, alone = epochs(1, "spawn"), epochs(1, "fork")
    for way in range(2):
        assert forked[way].shape[:3] == (2, 8, 3)
        assert len({tuple(image.flatten().tolist()) for epoch in forked[way] for image in epoch}) == 16
        assert torch.equal(again[way], forked[way])
        assert torch.equal(spawned[way], alone[way])


@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda op: pickle.loads(pickle.dumps(op))], ids=["deepcopy", "pickle"]
)
@pytest.mark.parametrize("op", [*OPERATORS, AUGMENT], ids=[*IDS, "Augment"])
def test_copies_do_the_same(op: nn.Module, again: Any) -> None:
    other = again(op)
    assert torch.equal(seeded(other, IMAGES), seeded(op, IMAGES))
    assert repr(other) == repr(op)


def test_params_are_saved_and_replayed() -> None:
    params = AUGMENT.draw(4, (20, 30))
    file = io.BytesIO()
    torch.save(params, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert torch.equal(AUGMENT.apply(IMAGES, loaded), AUGMENT.apply(IMAGES, params))


def test_a_model_with_an_augment_keeps_its_state_dict() -> None:
    """Nothing is learnt in an Augment: weights saved without one load with one, and the other way round."""
    model = nn.Sequential(copy.deepcopy(AUGMENT), nn.Conv2d(3, 2, 3))
    assert list(model.state_dict()) == ["1.weight", "1.bias"]
    assert model(IMAGES).shape == (4, 2, 18, 22)


theirs = pytest.mark.filterwarnings("ignore::FutureWarning:torch", "ignore::DeprecationWarning:torch")


class Graphs:
    """A backend for torch.compile that keeps what it is given."""

    def __init__(self) -> None:
        self.targets: list[list[str]] = []

    def __call__(self, module: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        self.targets.append([str(node.target) for node in module.graph.nodes if node.op == "call_function"])
        return module.forward


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch.compiler.reset()


@theirs
@pytest.mark.parametrize("interpolation", ["antialias", "bilinear", "nearest"])
@pytest.mark.parametrize("kind", ["uint8 BHWC", "float BCHW", "list"])
def test_warp_is_one_node_of_one_graph(interpolation: str, kind: str) -> None:
    images: Any = {
        "uint8 BHWC": IMAGES,
        "float BCHW": IMAGES.permute(0, 3, 1, 2).contiguous() / 255,
        "list": [random_image(9 + i, 20 - i) for i in range(4)],
    }[kind]
    params, graphs = AUGMENT.draw(4, (20, 30)), Graphs()
    arguments = (images, params.matrix, (16, 17), interpolation, "border", params.color, torch.bfloat16)
    compiled = torch.compile(fa.warp, backend=graphs, fullgraph=True)
    expected, got = fa.warp(*arguments), compiled(*arguments)
    assert torch.equal(got, expected)
    assert got.stride() == expected.stride()
    assert [target for target in graphs.targets[0] if "fastaug" in target] == ["fastaug.warp.default"]


@theirs
def test_augment_under_inductor() -> None:
    """The default compiler, a step with a model, and erasing: one graph, the numbers of eager."""
    params, convolution = AUGMENT.draw(4, (20, 30)), nn.Conv2d(3, 2, 3).requires_grad_(False)

    def step(images: Tensor, params: fa.Params) -> Tensor:
        return convolution(AUGMENT.apply(images, params))

    compiled = torch.compile(step, fullgraph=True)
    torch.testing.assert_close(compiled(IMAGES, params), step(IMAGES, params), atol=1e-5, rtol=1e-5)


@theirs
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("op", [*OPERATORS, AUGMENT], ids=[*IDS, "Augment"])
def test_forward_is_one_graph(op: nn.Module, training: bool) -> None:
    op, graphs = copy.deepcopy(op).train(training), Graphs()
    compiled = torch.compile(op, backend=graphs, fullgraph=True)
    assert torch.equal(seeded(compiled, IMAGES), seeded(op, IMAGES))
    assert len(graphs.targets) == 1


@theirs
def test_other_sizes_do_not_compile_again() -> None:
    graphs = Graphs()
    compiled = torch.compile(lambda x, m: fa.warp(x, m, (x.shape[1], 9)), backend=graphs, fullgraph=True, dynamic=True)
    for batch, height in ((4, 20), (2, 11), (3, 7)):
        images, matrix = IMAGES[:batch, :height].clone(), AUGMENT.draw(batch, (height, 30)).matrix
        assert torch.equal(compiled(images, matrix), fa.warp(images, matrix, (height, 9)))
    assert len(graphs.targets) == 1


@theirs
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_gradients_flow_through_a_compiled_function() -> None:
    matrix, grads = AUGMENT.draw(2, (8, 8)).matrix, []
    for wrap in (lambda f: f, lambda f: torch.compile(f, backend="aot_eager")):
        images = torch.rand(2, 8, 8, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
        wrap(lambda x: (fa.warp(x, matrix, 6) ** 2).sum())(images).backward()
        grads.append(images.grad)
    torch.testing.assert_close(grads[1], grads[0])
    assert grads[0].abs().sum() > 0


@theirs
def test_errors_in_a_graph_are_those_of_eager() -> None:
    compiled = torch.compile(fa.warp, backend="eager")
    with pytest.raises(ValueError, match="expected a float matrix"):
        fa.warp(IMAGES, torch.eye(3)[None], 4)
    with pytest.raises(Exception, match="expected a float matrix"):
        compiled(IMAGES, torch.eye(3)[None], 4)
    with pytest.raises(ValueError, match=r"expected invertible matrices, got .* for image 0"):
        compiled(IMAGES, torch.zeros(4, 3, 3), 4)  # seen when the graph runs
    with pytest.raises(RuntimeError, match="backend 'triton' needs images on cuda"):
        compiled(IMAGES, torch.eye(3).expand(4, 3, 3), 4, backend="triton")


def test_the_operator_passes_torchs_own_check() -> None:
    matrix, color = AUGMENT.draw(4, (20, 30)).matrix, torch.rand(4, 3, 4)
    for images in ([IMAGES], [IMAGES.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1) / 255], list(IMAGES)):
        arguments = (images, matrix, 7, 9, "antialias", "reflection", color, torch.float16, "auto")
        torch.library.opcheck(torch.ops.fastaug.warp.default, arguments)


def test_eager_calls_go_past_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("an eager call paid for the operator's dispatch")

    monkeypatch.setattr(warp_module, "_warp_op", refuse)
    assert AUGMENT(IMAGES).shape == (4, 3, 20, 24)


@theirs
@pytest.mark.parametrize("op", [*OPERATORS, AUGMENT], ids=[*IDS, "Augment"])
def test_export_of_what_was_drawn(op: Operator | fa.Augment) -> None:
    """With the matrices as inputs every operator can be exported, and another draw replayed by the graph."""
    augment = op if isinstance(op, fa.Augment) else fa.Augment([op], (20, 24))

    class Apply(nn.Module):
        def forward(self, images: Tensor, matrix: Tensor, color: Tensor) -> Tensor:
            return augment.apply(images, fa.Params(matrix, color))

    first, second = augment.draw(4, (20, 30)), augment.draw(4, (20, 30))
    program = torch.export.export(Apply(), (IMAGES, first.matrix, first.color))
    expected = augment.apply(IMAGES, fa.Params(second.matrix, second.color))
    assert torch.equal(program.module()(IMAGES, second.matrix, second.color), expected)


@theirs
@pytest.mark.parametrize("strict", [False, True])
def test_export_of_the_validation_transform_with_any_batch_and_size(strict: bool) -> None:
    model = nn.Sequential(fa.aug_transforms(size=16), nn.Conv2d(3, 2, 3)).eval()
    dims = {0: torch.export.Dim("batch"), 1: torch.export.Dim("height", min=4), 2: torch.export.Dim("width", min=4)}
    program = torch.export.export(model, (IMAGES,), dynamic_shapes=({**dims},), strict=strict)
    assert sum(node.target is torch.ops.fastaug.warp.default for node in program.graph.nodes) == 1
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    again = torch.export.load(file).module()
    for images in (IMAGES, IMAGES[:1, :11], torch.cat([IMAGES, IMAGES])[:, :, :13]):
        torch.testing.assert_close(again(images), model(images))
