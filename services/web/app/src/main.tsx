import { render } from "preact";

render(<h1>samserve</h1>, document.getElementById("app")!);
