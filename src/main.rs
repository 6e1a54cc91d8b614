fn main() -> anyhow::Result<()> {
    for crd in persona_operator::api::crds() {
        print!("---\n{}", serde_norway::to_string(&crd)?);
    }
    Ok(())
}
