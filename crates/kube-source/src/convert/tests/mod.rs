mod nodes;
mod services;
mod slices;

use serde::de::DeserializeOwned;

use crate::Problem;

/// An object as written in YAML, and the same by way of JSON: both must read alike.
fn parse<T: DeserializeOwned + PartialEq + std::fmt::Debug>(yaml: &str) -> T {
    let object: T = serde_saphyr::from_str(yaml).unwrap_or_else(|error| panic!("{yaml}\n{error}"));
    let value: serde_json::Value = serde_saphyr::from_str(yaml).unwrap();
    assert_eq!(serde_json::from_value::<T>(value).unwrap(), object, "{yaml}");
    object
}

/// Each problem has to be of the object, at the field before the `|`, and to say what is behind it.
fn check_problems(case: &str, object: &str, problems: &[Problem], expect: &[&str]) {
    let text: Vec<_> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems.len(), expect.len(), "{case}: {text:#?}");
    for (problem, expect) in problems.iter().zip(expect) {
        let (field, message) = expect.split_once('|').unwrap();
        assert_eq!((&*problem.object, &*problem.field), (object, field), "{case}: {problem}");
        assert!(problem.message.contains(message), "{case}: {problem}");
        assert!(!problem.remedy.is_empty(), "{case}: {problem}");
    }
}
