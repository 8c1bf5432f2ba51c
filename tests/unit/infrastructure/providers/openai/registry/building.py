"""Short ways to declare, build and run agents in the tests of the registry."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agents import Agent, Model, ModelProvider, RunConfig
from agents.testing import ScriptedModel

from app.domain.models.agents import AgentSpec
from app.infrastructure.providers.openai.registry.agents import AgentRegistry, build_registry


def spec(key: str = "helper", **fields: Any) -> AgentSpec:
    """A spec that is complete unless the test says otherwise."""
    if "prompt_path" not in fields:
        fields.setdefault("instructions", f"You are {key}.")
    return AgentSpec(key=key, description=fields.pop("description", f"The {key}."), **fields)


def registry_of(
    *sources: AgentSpec | Agent[Any], tools: Mapping[str, Callable[..., Any]] | None = None, **options: Any
) -> AgentRegistry:
    """A registry with one default model and the models `fast` and `Large`."""
    return build_registry(
        sources,
        tools=tools or {},
        default_model=options.pop("default_model", "default-model"),
        models=options.pop("models", {"fast": "small-model", "Large": "large-model"}),
        **options,
    )


class Scripts(ModelProvider):
    """Scripted models by name, so that each agent's calls can be looked at apart."""

    def __init__(self, **scripts: Sequence[Any]) -> None:
        self.models = {name: ScriptedModel(steps) for name, steps in scripts.items()}

    def get_model(self, model_name: str | None) -> Model:
        return self.models[model_name or ""]

    def config(self, **options: Any) -> RunConfig:
        """A run configuration that uses these models and exports nothing."""
        return RunConfig(model_provider=self, tracing_disabled=True, **options)

    def seen(self, name: str, call: int = 0) -> Any:
        """The input of one call of a model."""
        return self.models[name].calls[call].input
