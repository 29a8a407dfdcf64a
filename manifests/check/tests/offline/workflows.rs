//! Workflows are complete, and take no code that may change under its name.

use serde_json::Value;

use crate::yaml::{self, list, text};

#[test]
fn every_workflow_has_what_it_needs() {
    for (file, documents) in yaml::files(".github/workflows") {
        let [workflow] = &documents[..] else { panic!("{file} is not one document") };
        assert_eq!(faults(workflow), [""; 0], "{file}");
    }
}

#[test]
fn faults_are_found() {
    for (yaml, expect) in [
        ("on: push\njobs: {}", "no jobs"),
        ("jobs: {a: {runs-on: b, steps: [{run: c}]}}", "no `on`"),
        ("on: push\njobs: {a: {steps: [{run: c}]}}", "a: no `runs-on`"),
        ("on: push\njobs: {a: {runs-on: b, steps: []}}", "a: no steps"),
        (
            "on: push\njobs: {a: {runs-on: b, needs: c, steps: [{run: c}]}}",
            "a: needs c, which does not exist",
        ),
        ("on: push\njobs: {a: {runs-on: b, steps: [{name: c}]}}", "a: step 1 has neither `run` nor `uses`"),
        (
            "on: push\njobs: {a: {runs-on: b, steps: [{uses: c/d@v4}]}}",
            "a: step 1 uses c/d@v4, which is not pinned",
        ),
    ] {
        assert_eq!(faults(&yaml::documents(yaml)[0]), [expect], "{yaml}");
    }
}

fn faults(workflow: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    if workflow["on"].is_null() {
        faults.push("no `on`".to_owned());
    }
    let Some(jobs) = workflow["jobs"].as_object().filter(|jobs| !jobs.is_empty()) else {
        faults.push("no jobs".to_owned());
        return faults;
    };
    for (name, job) in jobs {
        if text(job, "/runs-on").is_empty() {
            faults.push(format!("{name}: no `runs-on`"));
        }
        let needs = text(job, "/needs");
        if !needs.is_empty() && !jobs.contains_key(needs) {
            faults.push(format!("{name}: needs {needs}, which does not exist"));
        }
        let steps = list(job, "/steps");
        if steps.is_empty() {
            faults.push(format!("{name}: no steps"));
        }
        let of_steps = steps.iter().enumerate().filter_map(|(index, step)| fault_of_step(step, index + 1));
        faults.extend(of_steps.map(|fault| format!("{name}: {fault}")));
    }
    faults
}

fn fault_of_step(step: &Value, number: usize) -> Option<String> {
    match (step["run"].as_str(), step["uses"].as_str()) {
        (Some(_), None) => None,
        (None, Some(action)) => {
            let commit = action.split_once('@').map_or("", |(_, commit)| commit);
            let is_pinned = commit.len() == 40 && commit.chars().all(|c| c.is_ascii_hexdigit());
            (!is_pinned).then(|| format!("step {number} uses {action}, which is not pinned"))
        }
        (None, None) => Some(format!("step {number} has neither `run` nor `uses`")),
        (Some(_), Some(_)) => Some(format!("step {number} has both `run` and `uses`")),
    }
}
