"""What the process counts, for Prometheus."""

from fastapi import APIRouter
from starlette.responses import Response

from app.api.dependencies import Running
from app.api.openai.access import AdminAccess

router = APIRouter(tags=["service"])


@router.get(
    "/metrics",
    summary="What does it count?",
    responses={200: {"description": "Prometheus' text format.", "content": {"text/plain": {}}}},
    response_class=Response,
    response_model=None,
)
async def metrics(container: Running, _access: AdminAccess) -> Response:
    """Return all metrics of this process; a key needs the scope `admin`, as they tell of all organizations together."""
    monitoring = container.monitoring
    return Response(await monitoring.page(), headers={"content-type": monitoring.content_type})
