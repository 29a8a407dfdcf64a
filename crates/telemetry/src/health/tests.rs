use super::*;

const LIMITS: Limits = Limits { waiting: Duration::from_secs(60), step: Duration::from_secs(90) };
const MOMENT: Duration = Duration::from_millis(1);

/// Checks whether `/livez` and `/healthz` are good.
fn pages(health: &Health, now: Instant) -> (bool, bool) {
    (health.livez(now).good, health.healthz(now).good)
}

#[test]
fn only_a_hanging_loop_calls_for_a_restart() {
    let (health, start) = (Health::new(LIMITS, &["services"]), Instant::now());
    assert_eq!(pages(&health, start + LIMITS.step * 9), (true, true), "nothing has begun");
    health.begin_step(start);
    assert_eq!(pages(&health, start + LIMITS.waiting), (true, true));
    assert_eq!(pages(&health, start + LIMITS.waiting + MOMENT), (true, false), "changes may wait behind it");
    assert_eq!(pages(&health, start + LIMITS.step), (true, false));
    let late = start + LIMITS.step + MOMENT;
    assert_eq!(pages(&health, late), (false, false));
    assert!(health.livez(late).body.contains(r#""healthy":false,"reason":"loop-hangs""#));
    health.end_step();
    assert_eq!(pages(&health, late), (true, true));
}

/// Conformance: healthcheck TestHealthzServer
/// Conformance: healthcheck TestLivezServer
#[test]
fn a_change_that_waits_too_long_is_unhealthy_but_no_reason_to_restart() {
    let (health, start) = (Health::new(LIMITS, &[]), Instant::now());
    health.set_waiting(start, "first-programming");
    health.set_waiting(start + LIMITS.waiting, "changes");
    assert_eq!(pages(&health, start + LIMITS.waiting), (true, true));
    let late = start + LIMITS.waiting + MOMENT;
    assert_eq!(pages(&health, late), (true, false), "the first one counts");
    let body = health.healthz(late).body;
    assert!(body.contains(r#""healthy":false,"reason":"changes""#), "{body}");
    assert!(body.contains(r#""lastUpdated":"0001-01-01T00:00:00Z""#), "{body}");
    health.set_programmed();
    let answer = health.readyz(late);
    assert!(!answer.good, "{answer:?}");
    assert!(
        answer.body.ends_with(r#""conditions":[{"code":"changes","word":"","blocks":true}]}"#),
        "{answer:?}"
    );
    assert!(health.readyz(start).good);
    health.set_caught_up();
    assert_eq!(pages(&health, late), (true, true));
    let body = health.healthz(late).body;
    assert!(body.contains(r#""lastUpdated":"20"#) && !body.contains("reason"), "{body}");
}

/// Conformance: healthcheck TestHealthzServer
/// Conformance: healthcheck TestLivezServer
#[test]
fn a_node_that_is_about_to_go_is_not_eligible_but_alive() {
    let (health, now) = (Health::new(LIMITS, &[]), Instant::now());
    let eligible = |health: &Health| health.healthz(now).body.contains(r#""nodeEligible":true"#);
    assert_eq!((pages(&health, now), eligible(&health)), ((true, true), true), "before any update");
    health.set_node_eligible(false);
    assert_eq!((pages(&health, now), eligible(&health)), ((true, false), false));
    assert!(
        health.healthz(now).body.contains(r#""nodeEligible":false,"healthy":true"#),
        "{:?}",
        health.healthz(now)
    );
    assert!(!health.livez(now).body.contains("nodeEligible"), "{:?}", health.livez(now));
    health.set_node_eligible(true);
    assert_eq!((pages(&health, now), eligible(&health)), ((true, true), true));
}

#[test]
fn limits_follow_the_sync_period_but_a_step_has_at_least_a_minute() {
    let seconds =
        |waiting, step| Limits { waiting: Duration::from_secs(waiting), step: Duration::from_secs(step) };
    assert_eq!(Limits::of(Duration::from_secs(1)), seconds(2, 60));
    assert_eq!(Limits::of(Duration::from_secs(30)), seconds(60, 60));
    assert_eq!(Limits::of(Duration::from_secs(120)), seconds(240, 240));
}

#[test]
fn ready_is_programmed_and_following() {
    let health = Health::new(LIMITS, &["services", "endpointslices"]);
    health.set_programmed();
    health.set_source_status("services", SourceStatus::Following);
    let answer = health.readyz(Instant::now());
    assert!(!answer.good && answer.body.contains(r#""endpointslices":"not-listed""#), "{answer:?}");
    health.set_source_status("endpointslices", SourceStatus::Following);
    health.set_source_status("nodes", SourceStatus::Failing("forbidden"));
    let answer = health.readyz(Instant::now());
    assert!(answer.good && answer.body.contains(r#""nodes":"forbidden""#), "{answer:?}");
    health.set_source_status("services", SourceStatus::Failing("unreachable"));
    let answer = health.readyz(Instant::now());
    assert!(!answer.good && answer.body.contains(r#""services":"unreachable""#), "{answer:?}");
    assert_eq!(pages(&health, Instant::now()), (true, true), "what is programmed goes on working");
    health.set_source_status("services", SourceStatus::Following);
    assert!(health.readyz(Instant::now()).good);
}

#[test]
fn conditions_are_listed_until_they_are_replaced() {
    let health = Health::new(LIMITS, &[]);
    health.set_programmed();
    let check = |ready: bool, list: &str| {
        let Answer { good, body } = health.readyz(Instant::now());
        assert_eq!(good, ready, "{body}");
        assert!(body.ends_with(&format!(r#""conditions":[{list}]}}"#)), "{body}");
    };
    check(true, "");
    health.set_condition("scheduler-unavailable", Effect::Notice, ["mh", "dh"]);
    let (mh, dh) = (
        r#"{"code":"scheduler-unavailable","word":"mh","blocks":false}"#,
        r#"{"code":"scheduler-unavailable","word":"dh","blocks":false}"#,
    );
    check(true, &format!("{mh},{dh}"));
    health.set_condition("services-refused", Effect::NotReady, ["10"]);
    let refused = r#"{"code":"services-refused","word":"10","blocks":true}"#;
    check(false, &format!("{mh},{dh},{refused}"));
    health.set_condition("scheduler-unavailable", Effect::Notice, ["dh"]);
    check(false, &format!("{dh},{refused}"));
    health.set_condition("services-refused", Effect::NotReady, [""; 0]);
    check(true, dh);
}
