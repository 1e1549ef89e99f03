"""Read a request for predictions: a raw image, a form of files, or JSON."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chalicelib import image_sources
from chalicelib.errors import EmptyBody, InvalidParameter, UnsupportedMediaType
from chalicelib.image_sources import Image
from chalicelib.queries import MAX_VERSION, parse_count, parse_flag, parse_json
from chalicelib.request_schemas import validated

IMAGE_TYPES = (
    "image/jpeg",
    "image/png",
    "image/webp",
    "image/bmp",
    "image/tiff",
    "image/gif",
    "application/x-image",
)
ALIASES = {"image/jpg": "image/jpeg", "image/x-ms-bmp": "image/bmp"}
JSON_TYPE = "application/json"
FORM_TYPE = "multipart/form-data"
# API Gateway takes every other body for text, and a byte that is none in UTF-8 is lost.
BINARY_TYPES = (*IMAGE_TYPES, *ALIASES, FORM_TYPE)
DEFAULT_TOP_K = 3
MAX_TOP_K = 1000
# As many as can be fetched and labelled one after the other within API Gateway's 29 seconds.
MAX_IMAGES = 16


@dataclass(frozen=True)
class PredictionRequest:
    """What a caller wants to know.

    Attributes:
        images: the images, in the caller's order.
        single: whether the answer is that of one image, and not a list.
        top_k: how many labels an image gets.
        explain: whether a heat map is wanted.
        embedding: whether the features are wanted.
        model_version: the version that has to answer; None: the live one.
    """

    images: list[Image]
    single: bool
    top_k: int = DEFAULT_TOP_K
    explain: bool = False
    embedding: bool = False
    model_version: int | None = None


def read_request(body: bytes, content_type: str, query: Mapping[str, str]) -> PredictionRequest:
    """The request in `body`; parameters of the query hold for all of its forms.

    Raises UnsupportedMediaType, EmptyBody or InvalidParameter.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    media_type = ALIASES.get(media_type, media_type)
    options = _options(query)
    if media_type not in {*IMAGE_TYPES, JSON_TYPE, FORM_TYPE}:
        raise UnsupportedMediaType(
            f"The content type '{media_type}' is not supported." if media_type else "The content type is missing.",
            f"Send an image as the body, with Content-Type {', '.join(IMAGE_TYPES[:3])} …; or files as "
            f"{FORM_TYPE}; or {JSON_TYPE} that says where the images are.",
        )
    if not body:
        raise EmptyBody("The body is empty.", "Send the bytes of one image as the body.")
    if media_type == JSON_TYPE:
        return _from_json(body, options)
    if media_type == FORM_TYPE:
        return PredictionRequest(_from_form(body, content_type), single=False, **options)
    return PredictionRequest([image_sources.from_bytes("0", body, media_type)], single=True, **options)


def _from_json(body: bytes, options: dict[str, Any]) -> PredictionRequest:
    document = validated(parse_json(body), "PredictRequest")
    options |= {name: document[name] for name in ("top_k", "explain", "embedding", "model_version") if name in document}
    ways = [way for way in ("images", "s3", "url", "base64") if way in document]
    if len(ways) != 1:
        raise InvalidParameter(
            f"The body names {len(ways)} of images, s3, url and base64.",
            'Send exactly one of them, for example {"url": "https://…"} or {"images": [{"s3": "…"}]}.',
        )
    sources = document["images"] if ways == ["images"] else [document]
    images = []
    for position, source in enumerate(sources):
        given = [way for way in ("s3", "url", "base64") if way in source]
        if len(given) != 1:
            raise InvalidParameter(
                f"Image {position} names {len(given)} of s3, url and base64.", "Name exactly one of them for each."
            )
        images.append(image_sources.from_document(position, source))
    return PredictionRequest(images, single=ways != ["images"], **options)


def _from_form(body: bytes, content_type: str) -> list[Image]:
    # Only requests of this form pay for the import.
    from multipart import MultipartError, PushMultipartParser, parse_options_header

    boundary = parse_options_header(content_type)[1].get("boundary", "")
    files: list[Image] = []
    name, content = "", bytearray()
    try:
        with PushMultipartParser(
            boundary, content_length=len(body), max_segment_count=MAX_IMAGES + 1, strict=True
        ) as parser:
            # The head of a part, then its bytes in pieces, then None.
            for event in parser.parse(body):
                if event is None:
                    files.append(image_sources.from_bytes(name, bytes(content)))
                elif isinstance(event, bytes | bytearray | memoryview):
                    content += event
                else:
                    name, content = event.filename or event.name or str(len(files)), bytearray()
    except MultipartError as error:
        raise InvalidParameter(
            f"The body is not the form that its Content-Type says: {error}.",
            f"Send each image as a file of a {FORM_TYPE}, at most {MAX_IMAGES}, and let the client make the boundary.",
        ) from error
    if not 1 <= len(files) <= MAX_IMAGES:
        raise InvalidParameter(
            f"The form holds {len(files)} files.", f"Send 1 to {MAX_IMAGES} images as files of the form."
        )
    return files


def _options(query: Mapping[str, str]) -> dict[str, Any]:
    version = query.get("model_version")
    return {
        "top_k": parse_count("top_k", query.get("top_k"), default=DEFAULT_TOP_K, highest=MAX_TOP_K),
        "explain": parse_flag("explain", query.get("explain")),
        "embedding": parse_flag("embedding", query.get("embedding")),
        "model_version": parse_count("model_version", version, default=1, highest=MAX_VERSION) if version else None,
    }
