"""`sbx-actor image`: the images of the runtime `oci`, unpacked on this host."""

from collections.abc import Callable
from pathlib import Path

import click

from scalebox_actors.cli import output
from scalebox_actors.cli.options import Common, common, images_option
from scalebox_actors.cli.show import moment, size
from scalebox_actors.errors import BadInput, ImageMissing
from scalebox_actors.runtimes.oci_images import Image, ImageStore, Named, normal
from scalebox_actors.runtimes.oci_import import import_image

SHOWN = 19
"""Characters of a digest that are shown: the algorithm and 12 digits."""


def _storing(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the image store, `--json` and `--verbose`."""
    return images_option(common(function))


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def image() -> None:
    """Import, list and remove the images of the runtime `oci`.

    \b
    docker save sbx/primes -o primes.tar
    sbx-actor image import primes.tar sbx/primes
    """  # noqa: D301 - click's mark for text that is not to be wrapped


@image.command("import")
@click.argument("source", metavar="FILE|DIR")
@click.argument("name")
@_storing
def import_(common: Common, source: str, name: str, image_store: Path) -> None:
    """Unpack FILE or DIR into the store as NAME; what NAME meant before it means no more.

    An archive of `docker save`, an OCI archive or layout, or a root file system as a folder or a
    tar. It is whole or not there; running containers keep what they have.

    \b
    sbx-actor image import rootfs.tar.gz sbx/primes:2
    """  # noqa: D301 - click's mark for text that is not to be wrapped
    path = Path(source)
    if not path.exists():
        raise BadInput("no such file or folder", path=source)
    found = import_image(ImageStore(image_store), path, name)
    _tell(common, Named(name=normal(name)[0], digest=found.digest), found)


@image.command("list")
@_storing
def list_(common: Common, image_store: Path) -> None:
    """List what is in the store, one name per line; an image without one shows `-`.

    \b
    sbx-actor image list
    """  # noqa: D301 - click's mark for text that is not to be wrapped
    for named, found in ImageStore(image_store).all():
        _tell(common, named, found)


@image.command("remove")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@_storing
def remove(common: Common, names: tuple[str, ...], image_store: Path) -> None:
    """Remove NAMEs, and the images that have no other; a digest removes all its names.

    \b
    sbx-actor image remove sbx/primes:1
    """  # noqa: D301 - click's mark for text that is not to be wrapped
    store = ImageStore(image_store)
    for name in names:
        try:
            gone = store.remove(name)
        except ImageMissing as error:
            raise BadInput(str(error)) from error
        if common.json:
            output.record({"removed": gone})
        else:
            output.lines("\n".join(f"removed {one}" for one in gone))


def _tell(common: Common, named: Named | None, found: Image) -> None:
    if common.json:
        output.record(
            {
                "name": named.name if named else None,
                "digest": found.digest,
                "bytes": found.size,
                "imported": found.imported,
                "entrypoint": found.entrypoint,
                "command": found.command,
                "user": found.user,
            }
        )
        return
    words = (found.digest[:SHOWN], moment(found.imported), size(found.size))
    output.line("  ".join([*words, named.name if named else "-"]))
