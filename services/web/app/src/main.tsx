import { render } from "preact";
import "./style.css";
import { start } from "./store/workspace";
import { App } from "./ui/App";

render(<App />, document.getElementById("app")!);
void start();
