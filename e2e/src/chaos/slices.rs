//! Changes of EndpointSlices, some like the controller's, some as it would never make them.

use serde_json::{Value, json};

use super::{
    cluster::{Change, Cluster, new_endpoint},
    random::Random,
    services::unique,
};

impl Cluster {
    pub(super) fn add_endpoint(&mut self, random: &mut Random, change: &mut Change) -> Option<()> {
        let mut slice = self.any_slice(random)?;
        let endpoint = new_endpoint(random, slice["addressType"] == "IPv4");
        change.what = format!("{}: add {}", name(&slice), endpoint["addresses"][0]);
        let mut endpoints = slice["endpoints"].as_array()?.clone();
        endpoints.push(endpoint);
        slice["endpoints"] = unique(endpoints);
        self.apply(change, slice);
        Some(())
    }

    /// Removes an endpoint, with or without a time of terminating before.
    pub(super) fn remove_endpoint(&mut self, random: &mut Random, change: &mut Change) -> Option<()> {
        let (mut slice, at) = self.any_endpoint(random)?;
        let announced = random.chance(60);
        let address = slice["endpoints"][at]["addresses"][0].clone();
        change.what = format!("{}: remove {address}, announced: {announced}", name(&slice));
        if announced {
            slice["endpoints"][at]["conditions"] = conditions(false, true, true);
            self.apply(change, slice.clone());
        }
        slice["endpoints"].as_array_mut()?.remove(at);
        self.apply(change, slice);
        Some(())
    }

    pub(super) fn flap_endpoint(&mut self, random: &mut Random, change: &mut Change) -> Option<()> {
        let (mut slice, at) = self.any_endpoint(random)?;
        for _ in 0..1 + random.below(3) {
            let terminating = random.chance(30);
            let ready = !terminating && random.chance(60);
            let serving = ready || random.chance(50);
            slice["endpoints"][at]["conditions"] = conditions(ready, serving, terminating);
            self.apply(change, slice.clone());
        }
        let (address, last) =
            (&slice["endpoints"][at]["addresses"][0], &slice["endpoints"][at]["conditions"]);
        change.what = format!("{}: {address} flaps, in the end {last}", name(&slice));
        Some(())
    }

    /// Replaces all endpoints of a Service at once, by none or by several new ones.
    pub(super) fn scale(&mut self, random: &mut Random, change: &mut Change) -> Option<()> {
        let service = random.pick(&self.services())?.clone();
        let count = [0, 0, 1, 10][random.below(4)];
        change.what = format!("scale {service} to {count}");
        let mut slices = self.slices(&service);
        if slices.is_empty() {
            let service = self.service(&service)?;
            slices.push(self.new_slice(&service, service["spec"]["ipFamilies"][0] == "IPv4"));
        }
        for mut slice in slices {
            let v4 = slice["addressType"] == "IPv4";
            slice["endpoints"] = unique((0..count).map(|_| new_endpoint(random, v4)).collect());
            self.apply(change, slice);
        }
        Some(())
    }

    /// Moves half of the endpoints to a new slice; for a moment they are in both, or in none.
    pub(super) fn split_slice(&mut self, random: &mut Random, change: &mut Change) -> Option<()> {
        let mut slice = self.any_slice(random)?;
        let service = self.service(slice["metadata"]["labels"]["kubernetes.io/service-name"].as_str()?)?;
        let mut new = self.new_slice(&service, slice["addressType"] == "IPv4");
        change.what = format!("split {}: a half goes to {}", name(&slice), name(&new));
        let endpoints = slice["endpoints"].as_array_mut()?;
        new["endpoints"] = endpoints.split_off(endpoints.len() / 2).into();
        new["ports"] = slice["ports"].clone();
        self.apply_in_any_order(random, change, [slice, new]);
        Some(())
    }

    pub(super) fn merge_slices(&mut self, random: &mut Random, change: &mut Change) -> Option<()> {
        let (mut into, from) = self.two_slices(random)?;
        change.what = format!("merge {} into {}", name(&from), name(&into));
        let mut endpoints = into["endpoints"].as_array()?.clone();
        endpoints.extend(from["endpoints"].as_array()?.iter().cloned());
        into["endpoints"] = unique(endpoints);
        if random.chance(70) {
            self.apply(change, into);
            self.delete(change, &from);
        } else {
            self.delete(change, &from);
            self.apply(change, into);
        }
        Some(())
    }

    pub(super) fn move_endpoint(&mut self, random: &mut Random, change: &mut Change) -> Option<()> {
        let (mut into, mut from) = self.two_slices(random)?;
        let endpoints = from["endpoints"].as_array_mut()?;
        if endpoints.is_empty() {
            return None;
        }
        let endpoint = endpoints.remove(random.below(endpoints.len()));
        change.what = format!("move {} from {} to {}", endpoint["addresses"][0], name(&from), name(&into));
        let mut endpoints = into["endpoints"].as_array()?.clone();
        endpoints.push(endpoint);
        into["endpoints"] = unique(endpoints);
        self.apply_in_any_order(random, change, [into, from]);
        Some(())
    }

    /// Gives a slice with all its endpoints to another Service.
    pub(super) fn give_slice_away(&mut self, random: &mut Random, change: &mut Change) -> Option<()> {
        let mut slice = self.any_slice(random)?;
        let service = random.pick(&self.services())?.clone();
        change.what = format!("give {} to {service}", name(&slice));
        slice["metadata"]["labels"]["kubernetes.io/service-name"] = service.into();
        self.apply(change, slice);
        Some(())
    }

    fn any_endpoint(&self, random: &mut Random) -> Option<(Value, usize)> {
        let slice = self.any_slice(random)?;
        let count = slice["endpoints"].as_array()?.len();
        (count > 0).then(|| (slice, random.below(count)))
    }

    /// Two slices of one family of one Service.
    fn two_slices(&self, random: &mut Random) -> Option<(Value, Value)> {
        let one = self.any_slice(random)?;
        let service = one["metadata"]["labels"]["kubernetes.io/service-name"].as_str()?;
        let mut others = self.slices(service);
        others.retain(|other| name(other) != name(&one) && other["addressType"] == one["addressType"]);
        let other = random.pick(&others)?.clone();
        Some((one, other))
    }

    fn apply_in_any_order(&mut self, random: &mut Random, change: &mut Change, mut objects: [Value; 2]) {
        if random.chance(50) {
            objects.reverse();
        }
        for object in objects {
            self.apply(change, object);
        }
    }
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn conditions(ready: bool, serving: bool, terminating: bool) -> Value {
    json!({"ready": ready, "serving": serving, "terminating": terminating})
}
