"""Triton's own spans: the flags that send them to a collector."""

from __future__ import annotations

from throughline.contracts.tracing import TracingSettings

SERVICE = "throughline-triton"
# Triton's default of 5 s would bring a trace's halves long after one another.
_EXPORT_MILLISECONDS = 1000


def flags(settings: TracingSettings) -> list[str]:
    """Returns the words of `tritonserver` that switch tracing on, none while it is off.

    A rate of 0 is Triton's for *what comes with a context, and nothing else*: neither health checks nor warm-up make
    traces, and which requests are traced is decided once, where they come in. TIMESTAMPS leaves tensors out.
    """
    if not settings.endpoint:
        return []
    values = (
        "mode=opentelemetry",
        "rate=0",
        "level=TIMESTAMPS",
        f"opentelemetry,url={settings.traces_url}",
        f"opentelemetry,resource=service.name={settings.service_name or SERVICE}",
        f"opentelemetry,bsp_schedule_delay={_EXPORT_MILLISECONDS}",
    )
    return [f"--trace-config={value}" for value in values]
