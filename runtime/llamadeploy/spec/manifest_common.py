"""Parts of the manifests that follow Kubernetes' own conventions."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic.alias_generators import to_camel

from llamadeploy.spec.fields import EnvName, Quantity
from llamadeploy.spec.names import RESOURCE_NAME
from llamadeploy.spec.validation import problem_error

ResourceName = Annotated[str, StringConstraints(pattern=RESOURCE_NAME, max_length=253)]
PodTemplate = dict[str, Any]


class ManifestModel(BaseModel):
    """Base: camelCase keys, unknown ones are errors."""

    model_config = ConfigDict(
        extra="forbid", alias_generator=to_camel, validate_by_name=True, hide_input_in_errors=True
    )


class ObjectMeta(ManifestModel):
    """The part of an object's metadata that is read; what else Kubernetes puts there is kept."""

    model_config = ConfigDict(extra="allow")

    name: str = Field(
        description="Name of the object, unique in its namespace.", pattern=RESOURCE_NAME
    )
    namespace: str | None = Field(None, description="Namespace of the object.")


class LocalObjectReference(ManifestModel):
    """An object of the same namespace."""

    name: ResourceName = Field(description="Name of the object, in the same namespace.")


class KeySelector(ManifestModel):
    """One key of a Secret or ConfigMap."""

    name: ResourceName = Field(description="Name of the object, in the same namespace.")
    key: str = Field(description="Key in its data.", min_length=1, max_length=253)
    optional: bool | None = Field(None, description="Whether the object or key may be missing.")


class SecretSource(ManifestModel):
    """Where a confidential value comes from."""

    secret_key_ref: KeySelector = Field(description="Key of a Secret that holds the value.")


class FileSource(ManifestModel):
    """Where a file's text comes from: a key of a ConfigMap or of a Secret."""

    config_map_key_ref: KeySelector | None = Field(
        None, description="Key of a ConfigMap that holds the text."
    )
    secret_key_ref: KeySelector | None = Field(
        None, description="Key of a Secret that holds the text."
    )

    @model_validator(mode="after")
    def _one(self) -> FileSource:
        require_one(self, ("config_map_key_ref", "secret_key_ref"))
        return self


class FieldSelector(ManifestModel):
    """A field of the pod."""

    api_version: str | None = Field(
        None, description="Version that fieldPath is written for, by default v1.", max_length=63
    )
    field_path: str = Field(
        description="The field, such as metadata.name.", min_length=1, max_length=512
    )


class ResourceFieldSelector(ManifestModel):
    """A request or limit of a container."""

    container_name: str | None = Field(
        None, description="The container; omitted: the one of the variable.", max_length=63
    )
    resource: str = Field(
        description="The resource, such as limits.memory.", min_length=1, max_length=253
    )
    divisor: Quantity | None = Field(None, description="Unit of the value, by default 1.")


class EnvVarSource(ManifestModel):
    """Where a variable's value comes from."""

    secret_key_ref: KeySelector | None = Field(None, description="Key of a Secret.")
    config_map_key_ref: KeySelector | None = Field(None, description="Key of a ConfigMap.")
    field_ref: FieldSelector | None = Field(None, description="Field of the pod.")
    resource_field_ref: ResourceFieldSelector | None = Field(
        None, description="Resource of the container."
    )

    @model_validator(mode="after")
    def _one(self) -> EnvVarSource:
        names = ("secret_key_ref", "config_map_key_ref", "field_ref", "resource_field_ref")
        require_one(self, names)
        return self


class EnvVar(ManifestModel):
    """One environment variable."""

    name: EnvName = Field(description="Name of the variable.")
    value: str | None = Field(None, description="Its value.", repr=False, max_length=32768)
    value_from: EnvVarSource | None = Field(
        None, description="Where its value comes from, instead of value."
    )

    @model_validator(mode="after")
    def _one(self) -> EnvVar:
        if self.value is not None and self.value_from is not None:
            raise problem_error("has both value and valueFrom", "keep one of them")
        return self


def require_one(model: BaseModel, names: tuple[str, ...], *, at_least: bool = True) -> None:
    """Exactly one of the fields is set, or at most one where ``at_least`` is false.

    Raises:
        PydanticCustomError: none of them, or several.
    """
    fields = type(model).model_fields
    aliases = [fields[name].alias or name for name in names]
    given = [
        alias
        for alias, name in zip(aliases, names, strict=True)
        if getattr(model, name) is not None
    ]
    if len(given) > 1:
        raise problem_error(f"has {' and '.join(given)}", "keep one of them")
    if not given and at_least:
        raise problem_error("is empty", f"give one of {', '.join(aliases)}")


class PlainObject(ManifestModel):
    """What ConfigMaps and Secrets share; fields that only Kubernetes needs are kept."""

    model_config = ConfigDict(extra="allow")

    metadata: ObjectMeta = Field(description="Standard object metadata.")
    data: dict[str, str] | None = Field(None, description="Key -> value.", repr=False)


class ConfigMapObject(PlainObject):
    """``kind: ConfigMap``."""


class SecretObject(PlainObject):
    """``kind: Secret``; ``data`` is base64."""

    string_data: dict[str, str] | None = Field(None, description="Key -> text.", repr=False)
