"""Importing what a user names: a package, a folder, or `package.module:attribute`."""

import hashlib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from app.domain.errors import ConfigurationError


def folder_modules(package_or_path: str | Path) -> Iterator[ModuleType]:
    """Import and yield a package itself and its modules, by name; sub-packages count as modules, without theirs.

    A `Path`, or a string that names an existing folder, is a folder; any other string is a dotted package name. A
    folder is imported under a name of its own, so it needs no `__init__.py`, may be called `agents` like the SDK, and
    its modules can import each other relatively.

    Raises:
        ConfigurationError: it does not exist, or a module cannot be imported; the message names the file.
    """
    package = _folder(package_or_path) if _is_folder(package_or_path) else _package(str(package_or_path))
    yield package
    for found in sorted(pkgutil.iter_modules(package.__path__), key=lambda module: module.name):
        if found.name != "__main__":
            places = ", ".join(str(Path(folder) / found.name) for folder in package.__path__)
            yield import_named(f"{package.__name__}.{found.name}", f"{places}{'' if found.ispkg else '.py'}")


def import_named(name: str, shown: str) -> ModuleType:
    """Import a module; `shown` is what the error message calls it.

    Raises:
        ConfigurationError: the import failed, for whatever reason the module has.
    """
    try:
        return importlib.import_module(name)
    except Exception as error:  # a module under import may raise anything; every case ends the start
        raise _import_failed(shown, error) from error


def load_attribute(reference: str) -> tuple[Any, ModuleType]:
    """Return the object that `package.module:attribute` names (dots in the attribute go deeper), and its module.

    Raises:
        ConfigurationError: the form is wrong, the import failed, or there is no such attribute.
    """
    module_name, separator, attribute = reference.partition(":")
    if not separator or not module_name or not attribute:
        raise ConfigurationError(f"'{reference}' names no object. Write it as 'package.module:attribute'.")
    module = import_named(module_name, module_name)
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise ConfigurationError(
                f"'{reference}': the module '{module_name}' has no '{attribute}'. Correct the name after the colon."
            )
        found = getattr(found, part)
    return found, module


def module_folder(module: ModuleType) -> Path:
    """Return the folder a module's file is in; the working directory for a module without a file."""
    return Path(module.__file__).parent if module.__file__ else Path.cwd()


def _is_folder(package_or_path: str | Path) -> bool:
    return isinstance(package_or_path, Path) or "/" in package_or_path or Path(package_or_path).is_dir()


def _package(name: str) -> ModuleType:
    package = import_named(name, name)
    if not hasattr(package, "__path__"):
        raise ConfigurationError(f"'{name}' is a module, not a package. Name the folder it is in.")
    return package


def _folder(path: str | Path) -> ModuleType:
    folder = Path(path).resolve()
    if not folder.is_dir():
        raise ConfigurationError(
            f"The folder '{path}' does not exist. Create it, or correct the setting that names it."
        )
    name = f"durable_agents_folder_{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"
    importlib.invalidate_caches()
    if name not in sys.modules:
        spec = ModuleSpec(name, None, is_package=True)
        spec.submodule_search_locations = [str(folder)]
        if (init := folder / "__init__.py").exists():
            spec.loader, spec.origin, spec.has_location = SourceFileLoader(name, str(init)), str(init), True
        package = sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            if spec.loader is not None:
                spec.loader.exec_module(package)
        except Exception as error:  # as above
            del sys.modules[name]
            raise _import_failed(str(init), error) from error
    return sys.modules[name]


def _import_failed(shown: str, error: Exception) -> ConfigurationError:
    reason = f"{type(error).__name__}: {error}"
    return ConfigurationError(f"'{shown}' cannot be imported ({reason}). Correct it, or remove it.")
