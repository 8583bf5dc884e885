import pytest
from pydantic import SecretStr
from samserve.core.caller import Caller, acting_for
from samserve.core.errors import InvalidInput, Unauthenticated
from samserve.core.plan import Plan
from samserve.infra.settings import GatewaySettings
from samserve.wire.callers import Callers
from structlog.testing import capture_logs

SECRET, OLD = "the-edge's-own-secret", "the-secret-of-before"
EDGE = ("samserve-edge", SECRET)


def test_without_a_secret_every_caller_names_its_tenant() -> None:
    assert Callers().read([("samserve-tenant", "acme")]).tenant == "acme"
    assert Callers().read([]).tenant == "public"


@pytest.mark.parametrize("sent", ["", "x", SECRET[:-1], SECRET + "x", SECRET.upper(), "é" * 9])
def test_a_tenant_that_does_not_come_from_the_edge_is_refused(sent: str) -> None:
    callers = Callers([SECRET, OLD])
    forged = [("samserve-tenant", "acme"), ("samserve-key-id", "k")]
    for metadata in (forged, [*forged, ("samserve-edge", sent)]):
        with pytest.raises(Unauthenticated) as refused:
            callers.read(metadata)
        assert "acme" not in str(refused.value)


def test_a_secret_without_any_characters_opens_nothing() -> None:
    assert Callers(["", SECRET])._secrets == [SECRET]
    with pytest.raises(Unauthenticated):
        Callers([SECRET, ""]).read([("samserve-edge", "")])


def test_the_secret_of_before_is_accepted_and_the_new_one_is_sent() -> None:
    callers = Callers([SECRET, OLD])
    assert callers.read([("samserve-edge", OLD), ("samserve-tenant", "acme")]).tenant == "acme"
    assert EDGE in callers.metadata()


def test_the_first_of_several_values_counts() -> None:
    metadata = [EDGE, ("samserve-tenant", "acme"), ("samserve-tenant", "forged")]
    assert Callers([SECRET]).read(metadata).tenant == "acme"


def test_tenants_share_their_entries_only_if_told() -> None:
    acme = [("samserve-tenant", "acme")]
    assert Callers().read(acme).owner == "acme"
    shared = Callers(shared=True).read(acme)
    assert (shared.tenant, shared.owner) == ("acme", "shared")


@pytest.mark.parametrize("name", ["", "a:b", "a/b", "../x", "a b", "x" * 65, "ä", "a\n"])
def test_a_tenants_name_is_checked(name: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        Callers([SECRET]).read([EDGE, ("samserve-tenant", name)])
    assert refused.value.field == "samserve-tenant"


def test_another_service_is_told_the_caller() -> None:
    caller = Caller("acme", "acme", Plan(weight=2.0), "k1")
    with acting_for(caller):
        told = Callers([SECRET]).metadata()
    assert told == (EDGE, ("samserve-key-id", "k1"), ("samserve-plan", "weight=2.0"))
    assert Callers([SECRET]).read([*told, ("samserve-tenant", "acme")]) == caller


def test_a_plan_is_believed_from_the_edge_alone() -> None:
    plan = [("samserve-plan", "weight=9")]
    assert Callers().read(plan).plan == Plan()
    assert Callers([SECRET]).read([*plan, EDGE]).plan == Plan(weight=9)


def test_nobody_is_told_without_a_secret() -> None:
    assert Callers().metadata() == ()


@pytest.mark.parametrize(
    ("host", "secret", "warns"),
    [("127.0.0.1", "", 0), ("::1", "", 0), ("10.0.0.1", "", 1), ("::", "", 1), ("::", SECRET, 0)],
)
def test_an_open_service_beyond_loopback_is_warned_of(host: str, secret: str, warns: int) -> None:
    settings = GatewaySettings(host=host, edge_secret=SecretStr(secret))
    with capture_logs() as logs:
        Callers.of(settings)
    assert len(logs) == warns
