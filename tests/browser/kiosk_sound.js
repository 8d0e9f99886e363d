// Evaluated in the page by kiosk_rig.sound: a list of what is wrong with what is visible now.
() => {
  const TARGET_PX = 64;
  const CONTRAST = 4.5; // WCAG 2.2, 1.4.3 AA
  const PAPER = { r: 245, g: 243, b: 238 };
  const problems = [];

  const visible = (element) => element.checkVisibility({ opacityProperty: true, visibilityProperty: true });
  const name = (element) => `${element.tagName}#${element.id} "${element.textContent.trim().slice(0, 30)}"`;

  for (const button of [...document.querySelectorAll("button")].filter(visible)) {
    const box = button.getBoundingClientRect();
    if (box.width < TARGET_PX || box.height < TARGET_PX) problems.push(`target ${box.width}x${box.height}: ${name(button)}`);
    if (!(button.getAttribute("aria-label") || button.textContent).trim()) problems.push(`nameless: ${name(button)}`);
    if (box.left < 0 || box.right > innerWidth) problems.push(`off the screen: ${name(button)}`);
  }

  const page = document.scrollingElement;
  if (page.scrollWidth > innerWidth) problems.push(`scrolls sideways: ${page.scrollWidth} > ${innerWidth}`);
  if (page.scrollHeight > innerHeight) problems.push(`scrolls: ${page.scrollHeight} > ${innerHeight}`);

  const parse = (text) => {
    const [r, g, b, a = 1] = text.match(/[\d.]+/g).map(Number);
    return { r, g, b, a };
  };
  const linear = (byte) => (byte / 255 <= 0.03928 ? byte / 255 / 12.92 : ((byte / 255 + 0.055) / 1.055) ** 2.4);
  const light = ({ r, g, b }) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = parse(getComputedStyle(each).backgroundColor);
      if (colour.a === 1) return colour;
    }
    return PAPER;
  };

  for (const element of [...document.querySelectorAll("body *")].filter(visible)) {
    const own = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim());
    if (!own || element.closest("button:disabled, .spoken, noscript")) continue;
    const style = getComputedStyle(element);
    const [more, less] = [light(parse(style.color)), light(behind(element))].sort((x, y) => y - x);
    const contrast = (more + 0.05) / (less + 0.05);
    if (contrast < CONTRAST) problems.push(`contrast ${contrast.toFixed(2)}: ${name(element)}`);
    const cut = element.scrollWidth > element.clientWidth + 1;
    if (cut && style.display !== "inline") problems.push(`cut off: ${name(element)}`);
  }

  if ([...document.querySelectorAll("h1")].filter(visible).length > 1) problems.push("more than one h1");
  return problems;
}
