"""What `/auth` takes and gives."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from agent.api.auth.caller import Role
from agent.api.auth.people import ListedUser
from agent.api.auth.secrets import SECRET_MAX
from agent.api.auth.users import NAME_MAX, is_readable


def _readable(name: str) -> str:
    if not is_readable(name):
        raise ValueError("a name is printable and not empty")
    return name.strip()


Name = Annotated[str, Field(min_length=1, max_length=NAME_MAX, examples=["anna"]), AfterValidator(_readable)]
Secret = Annotated[
    SecretStr, Field(min_length=1, max_length=SECRET_MAX, description="PIN of 6+ digits or password of 8+.")
]
StaffRole = Literal["technician", "collector", "admin"]


class In(BaseModel):
    model_config = ConfigDict(extra="forbid")


class LoginIn(In):
    """`as` `cookie` sets HttpOnly cookies (browsers); `bearer` puts the tokens into the answer (programs)."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"name": "anna", "secret": "270415", "as": "cookie"}]})

    name: Name
    secret: Secret
    transport: Literal["cookie", "bearer"] = Field("cookie", alias="as")


class RefreshIn(In):
    """Empty for browsers: their cookie counts."""

    refresh_token: SecretStr | None = Field(None, max_length=128)


class UiIn(In):
    token: SecretStr = Field(max_length=512, description="The UI token of the configuration.")


class LaunchIn(In):
    code: SecretStr = Field(max_length=128, description="From the fragment that the launch file opens the page with.")


class PasswordIn(In):
    current: Secret
    new: Secret


class UserIn(In):
    name: Name
    role: StaffRole
    secret: Secret


class FirstAdminIn(In):
    name: Name
    secret: Secret


class UserPatch(In):
    """What is absent stays. Either change ends the user's sessions."""

    role: StaffRole | None = None
    secret: Secret | None = None


class SessionOut(BaseModel):
    """`expires_in_s`: refresh before; `refresh_expires_in_s`: log in again before. Tokens only for `as: bearer`."""

    role: Role
    user_id: str | None = None
    expires_in_s: int = Field(examples=[900])
    refresh_expires_in_s: int = Field(examples=[43_200])
    access_token: str | None = None
    refresh_token: str | None = None


class MeOut(BaseModel):
    role: Role
    actor: str = Field(description="What journal rows name for what you do.", examples=["ui"])
    user_id: str | None = None
    name: str | None = None


class UserOut(BaseModel):
    id: str
    name: str
    role: Role
    created_at: datetime
    secret_changed_at: datetime
    locked_for_s: int = Field(description="Seconds until the next login attempt is looked at; 0: now.")

    @staticmethod
    def of(listed: ListedUser) -> UserOut:
        user = listed.user
        return UserOut(
            id=user.id,
            name=user.name,
            role=user.role,
            created_at=datetime.fromtimestamp(user.created_us / 1e6, UTC),
            secret_changed_at=datetime.fromtimestamp(user.changed_us / 1e6, UTC),
            locked_for_s=listed.locked_s,
        )


class UsersOut(BaseModel):
    users: list[UserOut]
