"""The script that a user of SageMaker's PyTorch containers writes, as their documentation shows it.

https://docs.aws.amazon.com/sagemaker/latest/dg/adapt-inference-container.html
"""

import io
import json
from pathlib import Path
from typing import Any

import torch
import torchvision
from PIL import Image
from torchvision import transforms

PREPARE = transforms.Compose(
    [
        transforms.Resize(256),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]
)


def model_fn(model_dir: str) -> torch.nn.Module:
    told = json.loads((Path(model_dir) / "about.json").read_text())
    network: torch.nn.Module = torchvision.models.get_model(told["backbone"], num_classes=told["classes"])
    network.load_state_dict(torch.load(Path(model_dir) / "model.pth", weights_only=True))
    return network.eval()


def input_fn(body: bytes, content_type: str) -> torch.Tensor:
    assert content_type == "image/jpeg", content_type
    with Image.open(io.BytesIO(body)) as image:
        prepared: torch.Tensor = PREPARE(image.convert("RGB"))
    return prepared.unsqueeze(0)


def predict_fn(data: torch.Tensor, model: torch.nn.Module) -> Any:
    with torch.no_grad():
        return model(data).softmax(dim=1)[0].topk(3)


def output_fn(prediction: Any, accept: str) -> str:
    assert accept == "application/json", accept
    return json.dumps({"scores": prediction.values.tolist(), "labels": prediction.indices.tolist()})
