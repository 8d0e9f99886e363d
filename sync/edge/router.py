"""`/api/v1/sync`: how far the office is, and what a technician may ask for.

Annotations are evaluated here: FastAPI cannot resolve a closure's names from texts.
"""

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from sync.edge.edge import Edge


class SyncStatusOut(BaseModel):
    """The road to the office at this moment."""

    enrolled: bool = Field(description="An office is known and this kiosk has a key with it.")
    online: bool = Field(description="The office answered last time.")
    kiosk_id: str | None
    central_url: str | None
    journal_id: str
    head_seq: int = Field(description="Last row of this kiosk's journal.")
    watermark_seq: int | None = Field(description="Last row that the office has, whole and in order.")
    lag_rows: int | None = Field(description="Rows that the office does not have yet; null: not known since the start.")
    oldest_unsent_age_s: float | None
    error_code: str | None
    error_text: str | None
    alarm: str | None = Field(description="A refusal that a person must look at; rows wait, none is dropped.")
    forked_from: str | None = Field(description="The journal that the present one continues since this start.")
    last_contact_age_s: float | None
    retry_in_s: float | None
    blobs_pending: int = Field(description="Sealed files that the object store does not have yet.")
    blobs_pending_bytes: int


class SnapshotOut(BaseModel):
    """A sealed snapshot, journalled and on its way."""

    blob_id: str
    sha256: str = Field(description="Of the sealed bytes, in hex.")
    size_bytes: int


def make_router(edge: Edge, require: Callable[..., Callable[..., str]]) -> APIRouter:
    """For `/api/v1`; all calls need the role `technician`."""
    router = APIRouter(prefix="/sync", tags=["sync"])
    technician = require("technician")

    @router.get("/status")
    def status(_caller: Annotated[str, Depends(technician)]) -> SyncStatusOut:
        """Watermark, lag, last error, pending files."""
        return SyncStatusOut.model_validate(edge.status().as_dict())

    @router.post("/now")
    async def now(_caller: Annotated[str, Depends(technician)]) -> SyncStatusOut:
        """Try at once instead of after the wait; answers when all rows arrived, an error came, or 30 s are over."""
        return SyncStatusOut.model_validate((await edge.sync_now()).as_dict())

    @router.post("/snapshot", status_code=201)
    async def snapshot(_caller: Annotated[str, Depends(technician)]) -> SnapshotOut:
        """Seal a snapshot of the journal now; its upload follows by itself."""
        event = await edge.snapshot_now()
        return SnapshotOut(blob_id=event.blob_id, sha256=event.sha256, size_bytes=event.size_bytes)

    return router
