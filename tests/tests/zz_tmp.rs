//! tmp
#[test]
fn t() {
    println!("{}", tests::tools::debian("tree", "tree").display());
}
#[test]
fn t2() {
    println!("{}", tests::tools::debian("tree", "tree").display());
}
#[test]
#[should_panic]
fn t3() {
    tests::tools::debian("no-such-package-x", "no-such-program-x");
}
#[test]
fn hang() {
    let s = tests::subject::Subject::ext4(128);
    let pid = s.mounted().unwrap().daemon_pid();
    let _w = tests::watchdog::Watchdog::new(pid, std::time::Duration::from_secs(2));
    std::process::Command::new("kill").args(["-STOP", &pid.to_string()]).status().unwrap();
    println!("{:?}", std::fs::read_dir(s.path()).map(|_| ()));
    println!("{:?}", std::fs::metadata(s.path().join("x")).map(|_| ()));
    panic!("on purpose");
}
#[test]
fn killed() {
    let s = tests::subject::Subject::ext4(128);
    let _f = std::fs::File::create(s.path().join("open")).unwrap();
    if std::env::var_os("SUICIDE").is_some() {
        std::process::Command::new("kill")
            .args(["-KILL", &std::process::id().to_string()])
            .status()
            .unwrap();
    }
}
