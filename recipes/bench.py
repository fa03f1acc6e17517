"""Measures a service under a workload; without one, what Triton and the gateway cost over the engine alone.

python -m recipes.bench workload=chat slo=interactive 'targets=[raw,gateway]'
python -m recipes.bench workload=rag scenario=Server workload.arrivals.requests_per_second=2 seconds=120
python -m recipes.bench workload=edge "settings=['engine.max_num_tokens=256']" 'targets=[raw]'
python -m recipes.bench workload=chat 'targets=[gateway]' web_ui=true
python -m recipes.bench workload=chat endpoint.url=http://gpu-1:8000 endpoint.tokenizer=/checkpoints/llama
python -m recipes.bench bench.repeats=5
"""

from __future__ import annotations

from typing import Any, Self

import yaml
from pydantic import Field, model_validator

from recipes import app, layers, references
from recipes.bench_run import Run, run_workload
from recipes.endpoint import Endpoint
from throughline.contracts.benchmark import BenchSpec
from throughline.contracts.errors import ConfigError
from throughline.contracts.price import PriceSpec
from throughline.contracts.slo import SloSpec
from throughline.contracts.workload import Scenario, Workload

_WEB_PORT = 8089


class Config(layers.LayersConfig):
    """Settings of `recipes.bench`.

    Attributes:
        bench: Sizes of the comparison of layers, which is made without a workload; of it a workload takes the timeout.
        workload: What to send; None compares layers.
        slo: Limits that goodput counts by.
        price: What the machine costs; None for no costs.
        scenario: MLPerf's name for how the workload's requests arrive.
        seconds: Length of each run, warm-up included.
        rounds: Runs of each target, in turns.
        settings: Beside their own, `engine.…` of the target `raw`, `serve.…` of Triton, `gateway.…` of the gateway:
            `key=value` each.
        web_ui: Whether Locust shows its own pages while it runs.
        endpoint: A service that runs already, which a workload is sent to instead of `targets`.
    """

    bench: BenchSpec
    workload: Workload | None = None
    slo: SloSpec | None = None
    price: PriceSpec | None = None
    scenario: Scenario | None = None
    seconds: float = Field(default=60.0, gt=0)
    rounds: int = Field(default=1, ge=1)
    settings: tuple[str, ...] = ()
    web_ui: bool = False
    endpoint: Endpoint = Endpoint()

    @model_validator(mode="after")
    def _an_endpoint_takes_a_workload(self) -> Self:
        if self.endpoint.url is not None and self.workload is None:
            raise ValueError("layers are compared of our own targets: give an endpoint a workload (workload=chat)")
        if self.endpoint.url is not None and self.settings:
            raise ValueError("settings are of targets that the benchmark starts; an endpoint has its own")
        return self

    def run(self) -> Run:
        """Returns what is run of a workload.

        Raises:
            ConfigError: If there is no workload, or the scenario does not fit it.
        """
        if self.workload is None:
            raise ConfigError("no workload", where="workload", fix="name a preset: workload=chat")
        workload = self.workload
        if self.scenario == "Server" and workload.arrivals.requests_per_second is None:
            raise ConfigError(
                "scenario=Server has no rate",
                where="workload.arrivals.requests_per_second",
                fix="say how many requests a second: workload.arrivals.requests_per_second=2",
            )
        store = self.store()
        elsewhere = self.endpoint.url is not None
        engine = None if elsewhere else references.engine(store, self.target, self.profile)
        tokenizer = self.endpoint.tokenizer if engine is None else engine.path
        dataset = None
        if workload.source == "dataset" and tokenizer is not None:
            dataset = references.dataset(store, self.dataset, tokenizer, engine)
        return Run(
            store=store,
            engine=engine,
            endpoint=self.endpoint if elsewhere else None,
            dataset=dataset,
            workload=workload if self.scenario is None else workload.under(self.scenario),
            slo=self.slo,
            price=self.price,
            targets=("gateway",) if elsewhere else self.targets,
            seconds=self.seconds,
            rounds=self.rounds,
            settings=dict(_setting(text) for text in self.settings),
            timeout_seconds=self.bench.timeout_seconds,
            seed=self.seed,
            web_port=_WEB_PORT if self.web_ui else None,
            command=app.command("python -m recipes.bench"),
        )


def _setting(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(
            "setting has no value", where="settings", seen=text, fix="write key=value: engine.max_num_tokens=256"
        )
    return key.strip(), yaml.safe_load(value)


@app.recipe(Config)
def main(config: Config) -> None:
    """Runs the recipe."""
    known = {item.digest for item in config.store().all("benchmark")}
    if config.workload is not None:
        artifact = run_workload(config.run())
        judged = f"python -m recipes.diagnose benchmark={artifact.digest[:12]}"
        app.made(artifact, again=artifact.digest in known, next_command=judged)
        app.echo(f"page     {artifact.path / 'report.html'}")
        return
    from recipes.results import ratio_table, serving_table
    from throughline.reporting.terminal import print_table

    artifact = layers.make(config)
    cells = artifact.manifest.metrics["cells"]
    print_table(serving_table(cells))
    if "raw" in config.targets and len(config.targets) > 1:
        print_table(ratio_table(cells))
    app.made(artifact, again=artifact.digest in known, next_command="python -m recipes.serve")


if __name__ == "__main__":
    main()
