"""What an engine tells of itself, for `sbx-actor doctor`; nothing is made or changed."""

import msgspec

from scalebox_actors.errors import RuntimeUnavailable
from scalebox_actors.facts import EngineFacts
from scalebox_actors.runtimes.docker_answers import Answer, Step
from scalebox_actors.runtimes.docker_engine import Engine, Plugins
from scalebox_actors.runtimes.docker_usage import Meter


class Info(msgspec.Struct, rename="pascal"):
    """The part of GET /info that is of interest."""

    server_version: str = ""
    runtimes: dict[str, msgspec.Raw] | None = None
    default_runtime: str = ""
    live_restore_enabled: bool | None = None
    cgroup_driver: str = ""
    cgroup_version: str = ""
    driver: str = ""
    plugins: Plugins | None = None
    docker_root_dir: str = ""
    security_options: list[str] | None = None
    memory_limit: bool | None = None
    cpu_cfs_quota: bool | None = msgspec.field(default=None, name="CpuCfsQuota")
    pids_limit: bool | None = None


async def survey_engine(host: str | None = None) -> EngineFacts:
    """Ask an engine what it is; raises RuntimeUnavailable or NotPermitted as opening it does."""
    engine = await Engine.open(host, deny_list=False)
    try:
        told = await engine.call(Step.OTHER, lambda: engine.request("GET", "info"))
        if isinstance(told, Answer):
            raise RuntimeUnavailable(f"{engine.host}: {told.text}")
        return facts_of(msgspec.json.decode(told, type=Info), engine)
    finally:
        await engine.close()


def facts_of(info: Info, engine: Engine) -> EngineFacts:
    """Return what is of interest in an engine's answer."""
    traits = engine.traits
    limits = {"memory": info.memory_limit, "cpus": info.cpu_cfs_quota, "pids": info.pids_limit}
    return EngineFacts(
        host=engine.host,
        name="podman" if traits.podman else "docker",
        version=info.server_version,
        runtimes=tuple(sorted(info.runtimes or {})),
        default_runtime=info.default_runtime,
        live_restore=info.live_restore_enabled,
        cgroup_driver=info.cgroup_driver,
        cgroup_version=info.cgroup_version,
        storage_driver=info.driver,
        log_drivers=tuple((info.plugins and info.plugins.log) or ()),
        log_driver=traits.log_driver,
        data_root=info.docker_root_dir,
        rootless=any("rootless" in option for option in info.security_options or ()),
        unlimited=tuple(name for name, limited in limits.items() if limited is False),
        usage_fault=Meter.of(traits, engine.host).fault,
    )
