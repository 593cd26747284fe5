//! `pgkeep status`: what makes it red, and what does not.

use std::time::Duration;

use pgkeep_testkit::wait;

use crate::shop;

const LIMIT: Duration = Duration::from_secs(60);

fn codes(shop: &pgkeep_testkit::fixture::Shop) -> Vec<String> {
    let status = shop.run(["status", "--json"]).run().ok().json();
    let reasons = status["clusters"][0]["reasons"].as_array().unwrap();
    reasons
        .iter()
        .map(|reason| reason["code"].as_str().unwrap().to_owned())
        .collect()
}

/// Aim: an objective for lost work is held against what storage can restore: green while everything that the server
/// wrote is archived, however long ago that was; red once there is newer work that is not.
#[test]
fn an_objective_is_missed_by_work_that_is_not_archived_and_by_nothing_else() {
    let shop = shop(17).start();
    shop.reconfigure(
        "[cluster.shop]\n",
        "[cluster.shop]\nobjectives = { rpo = \"1 second\" }\n",
    );
    shop.pgkeep(["backup"]).ok();
    assert_eq!(codes(&shop), ["never-proven"]);
    shop.cluster.sql("CREATE TABLE newer AS SELECT 1");
    let has = |code: &str, wanted: bool| (codes(&shop).iter().any(|found| found == code) == wanted).then_some(());
    wait::until("status to miss the objective", LIMIT, || has("rpo-exceeded", true));
    shop.run(["status", "--check"]).run().expect(9);
    shop.cluster.archive_all();
    wait::until("status to be content", LIMIT, || has("rpo-exceeded", false));
}
