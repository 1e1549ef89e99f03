"""Which image trains, which validates, which tests: by content, in groups, and for good.

An image that once tested never trains later: a model that is compared with an older one would have been
taught what it is asked. So a version remembers the split of every content ever seen (splits.json).
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from contract import JobError
from dataset import MIN_IMAGES, SPLITS, Image, too_few
from labels_files import Quarantined

# Of each class without splits of its own: 60/20/20.
SHARES = {"valid": 0.2, "test": 0.2}
# Which split keeps its image when the same one lies in two: an image that is tested on must not be trained on.
PRECEDENCE = ("test", "valid", "train")


@dataclass
class Splitting:
    """The split of each image that is used, by key; those left out; groups that lay in two splits."""

    splits: dict[str, str] = field(default_factory=dict)
    left_out: list[Quarantined] = field(default_factory=list)
    joined: set[int] = field(default_factory=set)


@dataclass(frozen=True)
class _Group:
    """Images that look the same and have no split yet. The lowest rank is placed first."""

    rank: str
    members: tuple[Image, ...]


def assign(images: Sequence[Image], groups: Sequence[int], memory: Mapping[str, str], seed: int) -> Splitting:
    """Gives every image a split; images of one group (`groups`, one number an image) get the same.

    The user's own splits stand. Otherwise a content keeps the split of earlier versions (`memory`, by
    SHA-256), and a new group goes, in the order of the SHA-256 of seed and content, to the split that lacks
    most of its share of the class. If images were sorted and no `valid` (or no `test`) came of it, that
    split is cut from the sorted `train` in the same way.

    Raises JobError `TooFewImages` for a class that cannot appear in all of the splits to be made.
    """
    own = {image.split for image in images if image.split}
    missing = tuple(split for split in SHARES if split not in own) if own else ()
    members: dict[int, list[Image]] = defaultdict(list)
    for image, group in zip(images, groups, strict=True):
        members[group].append(image)

    result = Splitting()
    # By class and by whether the user sorted them into train: those are cut for the missing splits alone.
    settled: dict[tuple[str, bool], Counter[str]] = defaultdict(Counter)
    unsettled: dict[tuple[str, bool], list[_Group]] = defaultdict(list)
    for number in sorted(members):
        together = members[number]
        label = min(Counter(image.label for image in together).items(), key=lambda item: (-item[1], item[0]))[0]
        allowed = {image.key: _allowed(image, missing, memory) for image in together}
        fixed = {splits[0] for splits in allowed.values() if len(splits) == 1}
        pool = label, any(image.split == "train" for image in together)
        if not fixed:
            rank = min(hashlib.sha256(f"{seed}:{image.sha256}".encode()).hexdigest() for image in together)
            unsettled[pool].append(_Group(rank, tuple(together)))
            continue
        split = next(split for split in PRECEDENCE if split in fixed)
        if len(fixed) > 1:
            result.joined.add(number)
        kept = next(image for image in together if allowed[image.key] == (split,))
        for image in together:
            if split in allowed[image.key]:
                result.splits[image.key] = split
            else:
                result.joined.add(number)
                result.left_out.append(_in_two_splits(image, kept, split))
        if not any(image.split in SHARES for image in together):
            settled[pool][split] += 1

    sorted_classes = {image.label for image in images if image.split}
    for pool in sorted(settled.keys() | unsettled.keys()):
        label, is_sorted = pool
        parts = missing if is_sorted else tuple(SHARES)
        new = sorted(unsettled[pool], key=lambda group: group.rank)
        quotas = _quotas(settled[pool], len(new), parts)
        if not quotas:
            if is_sorted and not parts:
                continue
            if is_sorted or label not in sorted_classes:
                raise _too_few(label, images, settled[pool].total() + len(new), len(parts) + 1)
            # A few images beside a class that the user sorted.
            quotas = {"train": len(new)}
        for split in (*parts, "train"):
            chosen, new = new[: quotas.get(split, 0)], new[quotas.get(split, 0) :]
            result.splits |= {image.key: split for group in chosen for image in group.members}
    _check(images, result.splits)
    return result


def _allowed(image: Image, missing: tuple[str, ...], memory: Mapping[str, str]) -> tuple[str, ...]:
    """The splits that an image may be in; one alone when it is settled."""
    remembered = memory.get(image.sha256)
    if image.split is None:
        return (remembered,) if remembered else SPLITS
    if image.split != "train" or not missing:
        return (image.split,)
    if remembered is None:
        return ("train", *missing)
    # What was cut from the user's `train` for a split that the user has made since is theirs to sort again.
    return (remembered,) if remembered in missing else ("train",)


def _quotas(have: Counter[str], new: int, parts: Sequence[str]) -> dict[str, int]:
    """How many of `new` groups each split gets; empty when there are too few groups for all `parts`."""
    total = have.total() + new
    if total <= len(parts):
        return {}
    target = {part: max(1, round(SHARES[part] * total)) for part in parts}
    target["train"] = total - sum(target.values())
    now = Counter(have)
    for _ in range(new):
        # An empty split lacks all of its share, so it comes first.
        now[max(target, key=lambda split: (target[split] - now[split]) / target[split])] += 1
    return {split: now[split] - have[split] for split in target}


def _in_two_splits(image: Image, kept: Image, split: str) -> Quarantined:
    same = "shows the same image as" if image.sha256 == kept.sha256 else "looks the same as"
    return Quarantined(
        image.key,
        f"The file {same} {kept.key}, which is in the split {split!r}.",
        "Keep an image in one split only: accuracy means nothing on images that were trained on.",
    )


def _too_few(label: str, images: Sequence[Image], groups: int, needed: int) -> JobError:
    usable = sum(image.label == label for image in images)
    copies = f" ({usable - groups} of them copies of another)" if usable > groups else ""
    return too_few(label, usable, needed, copies)


def _check(images: Sequence[Image], splits: Mapping[str, str]) -> None:
    """Raises JobError `TooFewImages` for a class without training images, and for an empty split."""
    of_class: dict[str, set[str]] = defaultdict(set)
    for image in images:
        of_class[image.label] |= {splits[image.key]} if image.key in splits else set()
    for label, found in sorted(of_class.items()):
        if not found:
            raise too_few(label, 0, MIN_IMAGES)
        if "train" not in found:
            raise JobError(
                "TooFewImages",
                f"The class {label!r} has images to validate or test with, but none to train on.",
                f"Add images of the class {label!r} to train on.",
            )
    for split in SPLITS:
        if all(split not in found for found in of_class.values()):
            raise JobError(
                "TooFewImages",
                f"No image is left in the split {split!r}: those that were in it have been removed.",
                "Add images to any class: new ones fill the split that lacks most.",
            )
