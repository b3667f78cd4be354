"""What this server says of itself and its model."""

from importlib.metadata import version
from typing import Final

from vlserve.doors.kserve.convert import VERSION
from vlserve.doors.kserve.pb import inference_pb2 as pb
from vlserve.doors.kserve.tensors import INPUTS, OUTPUTS, Tensor
from vlserve.engines.base import EngineInfo

_NAME: Final = "vlserve"
_TYPES: Final = {"BYTES": pb.TYPE_STRING, "BOOL": pb.TYPE_BOOL, "UINT32": pb.TYPE_UINT32}


def server() -> pb.ServerMetadataResponse:
    """Name and version; none of the protocol's extensions is served."""
    return pb.ServerMetadataResponse(name=_NAME, version=version(_NAME))


def model(info: EngineInfo) -> pb.ModelMetadataResponse:
    """Names, types and shapes of all tensors."""
    return pb.ModelMetadataResponse(
        name=info.model,
        versions=[VERSION],
        platform=f"{_NAME}_{info.engine}",
        inputs=map(_described, INPUTS),
        outputs=map(_described, OUTPUTS),
    )


def config(info: EngineInfo) -> pb.ModelConfigResponse:
    """The same as Triton writes it."""
    config = pb.ModelConfig(
        name=info.model,
        platform=f"{_NAME}_{info.engine}",
        backend=_NAME,
        input=[
            pb.ModelInput(
                name=tensor.name,
                data_type=_TYPES[tensor.datatype],
                dims=[tensor.size],
                optional=tensor.is_optional,
            )
            for tensor in INPUTS
        ],
        output=[
            pb.ModelOutput(name=tensor.name, data_type=_TYPES[tensor.datatype], dims=[tensor.size])
            for tensor in OUTPUTS
        ],
        model_transaction_policy=pb.ModelTransactionPolicy(decoupled=True),
    )
    return pb.ModelConfigResponse(config=config)


def _described(tensor: Tensor) -> pb.ModelMetadataResponse.TensorMetadata:
    return pb.ModelMetadataResponse.TensorMetadata(
        name=tensor.name, datatype=tensor.datatype, shape=[tensor.size]
    )
