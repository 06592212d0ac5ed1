"""Proves: docs/deployment.md's configuration for Triton is well formed, and agrees with an exported file."""

import re

import onnxruntime
import torch
from support.repository import REPOSITORY

from nnunet_plugins.export.formats import write_network

TOKEN = re.compile(r'\s*("[^"]*"|[\w.]+|[:{}\[\],])')


def parse(text: str) -> dict:
    """Parse protobuf's text format: fields ``name: value``, messages ``name { ... }`` and lists of either."""
    tokens = TOKEN.findall(text)
    assert "".join(tokens) == re.sub(r"\s", "", text)
    position = 0

    def take(expected: str | None = None) -> str:
        nonlocal position
        position += 1
        assert expected in (None, tokens[position - 1]), f"{tokens[position - 1]} instead of {expected}"
        return tokens[position - 1]

    def value() -> object:
        if tokens[position] == "[":
            take()
            found = []
            while tokens[position] != "]":
                found.append(value())
                if tokens[position] == ",":
                    take()
            take("]")
            return found
        if tokens[position] == "{":
            take()
            found = message("}")
            take("}")
            return found
        word = take()
        assert re.fullmatch(r'"[^"]*"|\w+', word)
        return int(word) if word.isdigit() else word.strip('"')

    def message(end: str | None) -> dict:
        fields: dict[str, object] = {}
        while position < len(tokens) and tokens[position] != end:
            name = take()
            assert name.isidentifier() and name not in fields
            if tokens[position] == ":":
                take()
            else:
                assert tokens[position] in "[{"
            fields[name] = value()
        return fields

    return message(None)


def test_triton_configuration_describes_an_exported_file(tmp_path):
    page = (REPOSITORY / "docs" / "deployment.md").read_text()
    (text,) = re.findall(r"```text\n(name: .*?)```", page, re.DOTALL)
    configuration = parse(text)
    assert configuration.keys() <= {
        "name",
        "platform",
        "max_batch_size",
        "input",
        "output",
        "instance_group",
        "dynamic_batching",
        "version_policy",
    }
    assert configuration["platform"] == "onnxruntime_onnx" and configuration["max_batch_size"] > 1
    (image,), (logits,) = configuration["input"], configuration["output"]
    network = torch.nn.Conv2d(image["dims"][0], logits["dims"][0], 1).eval()
    write_network("onnx", network, image["dims"], tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for described, (real,) in ((image, session.get_inputs()), (logits, session.get_outputs())):
        assert described["name"] == real.name
        assert (described["data_type"], real.type) == ("TYPE_FP32", "tensor(float)")
        assert isinstance(real.shape[0], str)  # any number, which Triton leaves out of dims
        assert described["dims"] == real.shape[1:]
