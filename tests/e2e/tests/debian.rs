//! This host's own distribution: made of its packages, built upon, run. It takes a network.

use motu_e2e::Home;
use motu_e2e::packages::Packages;
use std::fs;

/// What this host is, if its packages make an image by its name (os-release(5)).
fn distribution() -> Result<String, String> {
    let text = fs::read_to_string("/etc/os-release").map_err(|error| format!("/etc/os-release: {error}"))?;
    let id = text.lines().find_map(|line| line.strip_prefix("ID=")).unwrap_or_default().trim_matches('"');
    match id {
        "debian" | "ubuntu" => Ok(id.to_owned()),
        _ => Err(format!("it is {id:?}, and neither Debian nor Ubuntu")),
    }
}

#[test]
fn an_image_of_packages_is_built_upon_and_run() {
    let name = match distribution() {
        Ok(name) => name,
        Err(why) => return println!("SKIPPED: this host has no packages to make an image of: {why}"),
    };
    let home = Home::new();
    fs::create_dir(home.at("context")).unwrap();
    // A small package that nothing else needs.
    let from = format!("FROM {name}\nPACKAGES tree\n");
    let steps = "ENV PLACE=/srv/made\nRUN mkdir -p $PLACE/below && touch $PLACE/below/file\nUSER nobody\n\
                 CMD [\"tree\", \"--noreport\", \"/srv/made\"]\n";
    fs::write(home.at("context/Motufile"), from + steps).unwrap();
    let ended = home.run(["image", "build", "-t", "made", "context"]);
    if ended.status != 0
        && let Err(why) = Packages::of("amd64")
    {
        println!("SKIPPED: apt fetches no packages here: {why}");
        return;
    }
    assert_eq!(ended.status, 0, "{}", ended.stderr);
    assert_eq!(home.succeeds(["run", "made"]), "/srv/made\n`-- below\n    `-- file\n");
}
